package wire

import (
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Codec names how a payload is stored. The numbers stand on the wire and on disk; CodecAuto is never stored.
type Codec uint8

// The codecs.
const (
	CodecRaw  Codec = 0
	CodecS2   Codec = 1
	CodecZstd Codec = 2
	CodecAuto Codec = 255 // the encoder chooses for each frame
)

// String returns the codec's name in configuration.
func (c Codec) String() string {
	switch c {
	case CodecRaw:
		return "raw"
	case CodecS2:
		return "s2"
	case CodecZstd:
		return "zstd"
	case CodecAuto:
		return "auto"
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

// ParseCodec reads a codec's name.
func ParseCodec(name string) (Codec, error) {
	for _, c := range []Codec{CodecAuto, CodecRaw, CodecS2, CodecZstd} {
		if c.String() == name {
			return c, nil
		}
	}
	return 0, fmt.Errorf("parse codec %q: want auto, raw, s2 or zstd", name)
}

func (c Codec) stored() bool { return c <= CodecZstd }

// maxWindow bounds a decoder's look back: no encoder needs more than a whole payload.
const maxWindow = MaxFramePayload

// Decoder decompresses payloads. It is safe for concurrent use; one serves a whole process.
type Decoder struct {
	zstd *zstd.Decoder
}

// NewDecoder returns a decoder. It needs no closing: it holds memory, but no goroutines.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(0),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(MaxFramePayload),
		zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("set up zstd decoder: %w", err)
	}
	return &Decoder{zstd: z}, nil
}

// unpack decompresses into dst, whose capacity is at least rawLen, and refuses what does not make exactly rawLen bytes.
func (d *Decoder) unpack(dst []byte, c Codec, packed []byte, rawLen int) ([]byte, error) {
	dst = dst[:rawLen:rawLen]
	switch c {
	case CodecRaw:
		if len(packed) != rawLen {
			return nil, fmt.Errorf("raw payload has %d bytes, want %d: %w", len(packed), rawLen, ErrCorrupt)
		}
		copy(dst, packed)
		return dst, nil
	case CodecS2:
		n, err := s2.DecodedLen(packed)
		if err == nil && n != rawLen {
			err = fmt.Errorf("makes %d bytes, want %d", n, rawLen)
		}
		if err == nil {
			_, err = s2.Decode(dst, packed)
		}
		if err != nil {
			return nil, fmt.Errorf("s2 payload of %d bytes: %w: %w", len(packed), err, ErrCorrupt)
		}
		return dst, nil
	case CodecZstd:
		out, err := d.zstd.DecodeAll(packed, dst[:0])
		if err == nil && len(out) != rawLen {
			err = fmt.Errorf("makes %d bytes, want %d", len(out), rawLen)
		}
		if err != nil {
			return nil, fmt.Errorf("zstd payload of %d bytes: %w: %w", len(packed), err, ErrCorrupt)
		}
		return out, nil
	}
	return nil, fmt.Errorf("codec %d: %w", uint8(c), ErrUnsupported)
}
