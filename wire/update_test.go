package wire_test

import (
	"encoding/binary"
	"testing"

	"flotilla/wire"
)

// The sum's layout is a format: it is written out here once more.
func TestSumLayout(t *testing.T) {
	u := wire.Update{Seq: 0x1122334455667788, Volume: 0xA1B2C3D4, Kind: wire.KindWrite, Offset: 1<<50 + 7, Length: 4, Data: []byte("data")}
	u.Seal(0xDEADBEEF, 1<<63+5)
	var p []byte
	p = binary.LittleEndian.AppendUint32(p, 0xDEADBEEF)
	p = binary.LittleEndian.AppendUint64(p, 1<<63+5)
	p = binary.LittleEndian.AppendUint64(p, uint64(u.Seq))
	p = binary.LittleEndian.AppendUint32(p, uint32(u.Volume))
	p = append(p, byte(u.Kind))
	p = binary.LittleEndian.AppendUint64(p, u.Offset)
	p = binary.LittleEndian.AppendUint32(p, u.Length)
	p = append(p, u.Data...)
	if u.Sum != crc(p) {
		t.Errorf("sum %08x, want %08x", u.Sum, crc(p))
	}
	if n := testing.AllocsPerRun(10, func() { u.Seal(1, 2) }); n != 0 {
		t.Errorf("sealing allocates %v times", n)
	}
}

func TestPortions(t *testing.T) {
	if p := wire.PortionOf(3, 1<<30+5, wire.DefaultPortionSize); p != (wire.Portion{Volume: 3, Index: 16}) {
		t.Errorf("portion %v", p)
	}
	if p := wire.MarkPortion(9); p != (wire.Portion{Volume: wire.MarkVolume, Index: 9}) || p.String() != "mark/9" {
		t.Errorf("mark portion %v", p)
	}
	u := wire.Update{Volume: 1, Portion: 2, Offset: 10, Length: 5}
	if u.PortionID().String() != "1/2" || u.End() != 15 {
		t.Errorf("portion %v, end %d", u.PortionID(), u.End())
	}
}

func TestClusterIDText(t *testing.T) {
	r := newRand(t, 9)
	var raw [16]byte
	noise(r, raw[:])
	id := wire.ClusterID(raw)
	text, err := id.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var got wire.ClusterID
	if err := got.UnmarshalText(text); err != nil || got != id || got.IsZero() {
		t.Errorf("%v: %v, %v", id, got, err)
	}
	for _, bad := range []string{"", "00", id.String() + "00", "zz" + id.String()[2:], "FF" + id.String()[2:]} {
		if err := got.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}
