package wire

import (
	"fmt"
	"slices"
)

// Decompress sets the Data of all updates to slices of one buffer: dst where its capacity is RawLen or more, else a
// new one; for CodecRaw they point into Raw and dst is not used. It returns the buffer for later reuse, which the
// caller may do once nothing reads the updates' data any more.
func (b *Body) Decompress(dst []byte, dec *Decoder) ([]byte, error) {
	data, err := b.unpack(dst, dec)
	if err != nil {
		return dst, fmt.Errorf("decompress body of group %d, set %d: %w", b.Group, b.Set, err)
	}
	b.eachData(data, func(i int, d []byte) { b.Updates[i].Data = d })
	if b.Codec == CodecRaw {
		return dst, nil
	}
	return data, nil
}

// unpack returns the payload as it was before compression.
func (b *Body) unpack(dst []byte, dec *Decoder) ([]byte, error) {
	if b.Codec == CodecRaw {
		return b.payload, nil
	}
	return dec.unpack(slices.Grow(dst[:0], int(b.RawLen)), b.Codec, b.payload, int(b.RawLen))
}

// eachData calls f with each update that carries data and its slice of the unpacked payload, whose length parse has
// found equal to the sum of the updates' lengths.
func (b *Body) eachData(payload []byte, f func(i int, data []byte)) {
	check := 0
	for i := range b.Updates {
		n := 0
		switch b.Updates[i].Kind {
		case KindWrite, KindMark:
			n = int(b.Updates[i].Length)
		case KindCheck:
			n = int(b.digests[check])
			check++
		default:
			continue
		}
		f(i, payload[:n:n])
		payload = payload[n:]
	}
}

// Select encodes a new body with only the updates at the given indexes, which rise strictly. It leaves b as it is,
// compressed or not. A component uses it to mirror again what a lost one held.
func (b *Body) Select(idx []int, enc *Encoder) ([]byte, error) {
	ups := make([]Update, 0, len(idx))
	for i, k := range idx {
		if k < 0 || k >= len(b.Updates) || (i > 0 && k <= idx[i-1]) {
			return nil, fmt.Errorf("select update %d as number %d: want rising indexes below %d", k, i, len(b.Updates))
		}
		ups = append(ups, b.Updates[k])
	}
	dec, err := enc.decoder()
	if err != nil {
		return nil, err
	}
	data, err := b.unpack(enc.selected, dec)
	if err != nil {
		return nil, fmt.Errorf("select from body of group %d, set %d: %w", b.Group, b.Set, err)
	}
	if b.Codec != CodecRaw {
		enc.selected = data
	}
	next := 0
	b.eachData(data, func(i int, d []byte) {
		for next < len(idx) && idx[next] < i {
			next++
		}
		if next < len(idx) && idx[next] == i {
			ups[next].Data = d
		}
	})
	return EncodeBody(nil, b.Header(), ups, enc)
}
