package wire

import (
	"fmt"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// How an Encoder chooses. All of it depends only on the frames it saw, so that a run replays exactly.
const (
	minPackLength   = 64         // shorter payloads are stored raw
	gainShift       = 5          // compression must save more than 1/32, else raw
	zstdShift       = 3          // zstd must save at least 1/8 of what s2 or raw would store: it takes ten times their time
	compareEvery    = 64         // frames between two comparisons of s2 and zstd
	incompressible  = 4          // frames without gain after which only samples are tried
	maxSkip         = 16         // frames without even a sample, at most
	fullTryEvery    = 64         // samples without gain between two tries of a whole frame
	sampleParts     = 4          // a sample is this many parts of a payload …
	samplePart      = 1 << 10    // … of this many bytes
	maxStreams      = 1024       // volumes that are told apart; beyond, all is learned anew
	encoderWindow   = 1 << 20    // how far zstd looks back
	defaultLinkRate = 125 << 20  // bytes a second
	rawRate         = 4000 << 20 // what one CPU does, roughly; only the order of magnitude matters
	s2Rate          = 750 << 20
	zstdRate        = 300 << 20
)

// Encoder compresses payloads. It keeps buffers and what it learned of the data, so each sender has its own, and uses
// it for one frame at a time.
type Encoder struct {
	preferred Codec
	linkRate  float64
	zstd      *zstd.Encoder
	dec       *Decoder

	table, gathered, s2Out, zstdOut, selected []byte

	streams map[VolumeID]*stream
	shares  []share // of the frame at hand
}

// stream is what an encoder learned of the data of one volume: next to a volume of pages one of encrypted files is not tried
// in vain for the sake of the first. A frame counts for the volume that has most of it.
type stream struct {
	choice   Codec // what CodecAuto uses until the next comparison
	compared int   // frames since that was made
	streak   int   // frames tried in a row without gain
	skip     int   // frames left to send raw untried
	backoff  int   // the length of the last such run
	samples  int   // samples in a row without gain
}

// share is how much of a frame is of one volume.
type share struct {
	volume VolumeID
	bytes  int
}

// NewEncoder returns an encoder that uses the preferred codec where it gains anything, and raw where not. CodecAuto
// compares s2 and zstd from time to time, and uses what moves the frames faster over the link (SetLinkRate).
func NewEncoder(preferred Codec) (*Encoder, error) {
	if !preferred.stored() && preferred != CodecAuto {
		return nil, fmt.Errorf("set up encoder: codec %v is none of auto, raw, s2 and zstd", preferred)
	}
	e := &Encoder{preferred: preferred, linkRate: defaultLinkRate, streams: map[VolumeID]*stream{}}
	if preferred == CodecAuto || preferred == CodecZstd {
		z, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(encoderWindow),
			zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, fmt.Errorf("set up zstd encoder: %w", err)
		}
		e.zstd = z
	}
	return e, nil
}

// SetLinkRate tells CodecAuto how many bytes a second the link takes; 0 stands for "not known" (1 Gbit/s assumed). On
// a slow link the smaller frame wins, on a fast one the codec that keeps up with it.
func (e *Encoder) SetLinkRate(bytesPerSecond uint64) {
	e.linkRate = float64(bytesPerSecond)
	if bytesPerSecond == 0 {
		e.linkRate = defaultLinkRate
	}
}

func (e *Encoder) decoder() (*Decoder, error) {
	if e.dec == nil {
		d, err := NewDecoder()
		if err != nil {
			return nil, err
		}
		e.dec = d
	}
	return e.dec, nil
}

// pack compresses the data of all updates, rawLen bytes together. The result is valid until the next call; for
// CodecRaw it is nil.
func (e *Encoder) pack(ups []Update, rawLen int) (Codec, []byte) {
	if e.preferred == CodecRaw || rawLen < minPackLength {
		return CodecRaw, nil
	}
	st := e.stream(ups)
	if !e.worthTrying(st, ups, rawLen) {
		return CodecRaw, nil
	}
	src := e.gather(ups, rawLen)
	codec, out := e.preferred, []byte(nil)
	if e.preferred == CodecAuto {
		codec, out = e.auto(st, src)
	} else {
		out = e.compress(e.preferred, src)
	}
	if len(out) >= rawLen-rawLen>>gainShift {
		st.streak++
		st.samples = 0
		st.compared = compareEvery // the other codec may do better on the next one
		return CodecRaw, nil
	}
	st.streak, st.samples, st.backoff = 0, 0, 0
	return codec, out
}

// stream returns that of the volume which has most of a frame.
func (e *Encoder) stream(ups []Update) *stream {
	e.shares = e.shares[:0]
	at, most := -1, 0
	for i := range ups {
		if at < 0 || e.shares[at].volume != ups[i].Volume {
			if at = slices.IndexFunc(e.shares, func(s share) bool { return s.volume == ups[i].Volume }); at < 0 {
				at = len(e.shares)
				e.shares = append(e.shares, share{volume: ups[i].Volume})
			}
		}
		if e.shares[at].bytes += len(ups[i].Data); e.shares[at].bytes > e.shares[most].bytes {
			most = at
		}
	}
	id := e.shares[most].volume
	st := e.streams[id]
	if st == nil {
		if len(e.streams) >= maxStreams {
			clear(e.streams)
		}
		st = &stream{choice: e.preferred, compared: compareEvery}
		e.streams[id] = st
	}
	return st
}

// auto compresses with the current choice, or with both codecs when it is time to compare them.
func (e *Encoder) auto(st *stream, src []byte) (Codec, []byte) {
	if st.compared < compareEvery {
		st.compared++
		return st.choice, e.compress(st.choice, src)
	}
	st.compared = 0
	fast, small := e.compress(CodecS2, src), e.compress(CodecZstd, src)
	st.choice = CodecS2
	other := min(len(fast), len(src))
	if len(small) <= other-other>>zstdShift && e.cost(zstdRate, len(src), len(small)) < e.cost(s2Rate, len(src), len(fast)) {
		st.choice = CodecZstd
		return CodecZstd, small
	}
	return CodecS2, fast
}

// cost is the time a frame takes when compression and sending overlap, with a little of the other one's for ties.
func (e *Encoder) cost(codecRate float64, raw, stored int) float64 {
	cpu, link := float64(raw)/codecRate, float64(stored)/e.linkRate
	return max(cpu, link) + min(cpu, link)/16
}

func (e *Encoder) compress(c Codec, src []byte) []byte {
	if c == CodecZstd {
		e.zstdOut = e.zstd.EncodeAll(src, e.zstdOut[:0])
		return e.zstdOut
	}
	// s2 allocates when the capacity that it is given is short.
	if need := s2.MaxEncodedLen(len(src)); cap(e.s2Out) < need {
		e.s2Out = make([]byte, need)
	}
	return s2.Encode(e.s2Out, src)
}

// gather returns the data of all updates in one piece.
func (e *Encoder) gather(ups []Update, rawLen int) []byte {
	for i := range ups {
		if len(ups[i].Data) == rawLen {
			return ups[i].Data
		}
	}
	e.gathered = slices.Grow(e.gathered[:0], rawLen)
	for i := range ups {
		e.gathered = append(e.gathered, ups[i].Data...)
	}
	return e.gathered
}

// worthTrying keeps the cost of data that does not compress low: after some frames without gain only small samples are
// compressed, and these ever more rarely.
func (e *Encoder) worthTrying(st *stream, ups []Update, rawLen int) bool {
	if st.streak < incompressible {
		return true
	}
	if st.skip > 0 {
		st.skip--
		return false
	}
	st.backoff = min(max(1, 2*st.backoff), maxSkip)
	st.skip = st.backoff
	if st.samples++; st.samples >= fullTryEvery || rawLen <= sampleParts*samplePart {
		return true
	}
	sample := e.sample(ups, rawLen)
	return len(e.compress(CodecS2, sample)) < len(sample)-len(sample)>>gainShift
}

// sample gathers parts from all over a payload that is longer than they are together.
func (e *Encoder) sample(ups []Update, rawLen int) []byte {
	e.gathered = slices.Grow(e.gathered[:0], sampleParts*samplePart)
	begin, part := 0, 0 // of this update's data in the payload; the part looked for
	for i := range ups {
		d := ups[i].Data
		for part < sampleParts {
			at := part*rawLen/sampleParts + rawLen/(2*sampleParts)
			if at >= begin+len(d) {
				break
			}
			from := max(0, at-begin)
			e.gathered = append(e.gathered, d[from:min(len(d), from+samplePart)]...)
			part++
		}
		begin += len(d)
	}
	return e.gathered
}
