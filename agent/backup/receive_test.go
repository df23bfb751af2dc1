package backup

import (
	"bytes"
	"errors"
	"testing"

	"flotilla/wire"
)

// encodeMark returns the body of one mark, stored as it is.
func encodeMark(t *testing.T, data []byte, sum func(*wire.Update)) []byte {
	t.Helper()
	enc, err := wire.NewEncoder(wire.CodecRaw)
	if err != nil {
		t.Fatal(err)
	}
	u := wire.Update{Seq: 1, Volume: wire.MarkVolume, Portion: 1, Kind: wire.KindMark, Length: uint32(len(data)), Data: data}
	u.Seal(1, 2)
	sum(&u)
	raw, err := wire.EncodeBody(nil, wire.BodyHeader{Group: 1, Primary: 1, Incarnation: 2, Set: 3}, []wire.Update{u}, enc)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestMarksOutliveTheirFrame(t *testing.T) {
	b := &Backup{}
	var err error
	if b.decoder, err = wire.NewDecoder(); err != nil {
		t.Fatal(err)
	}
	data := []byte("a manifest")
	raw := encodeMark(t, data, func(*wire.Update) {})
	body, err := b.parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	clear(raw) // as if the buffer were used for another frame
	if !bytes.Equal(body.Updates[0].Data, data) {
		t.Errorf("the mark became %q", body.Updates[0].Data)
	}
	if _, err := b.parse(encodeMark(t, data, func(u *wire.Update) { u.Sum++ })); !errors.Is(err, wire.ErrCorrupt) {
		t.Errorf("a mark with another sum: %v", err)
	}
}
