package backup

import (
	"bytes"
	"slices"
	"testing"

	"flotilla/agent/apply"
	"flotilla/agent/core"
	"flotilla/agent/journal"
	"flotilla/wire"

	"pgregory.net/rapid"
)

// TestPlanWritesTheNewest draws updates of two volumes in random frames, and compares what the planned requests leave
// on a volume with what the updates in order leave.
func TestPlanWritesTheNewest(t *testing.T) {
	const size, portion = 4096, 1024
	rapid.Check(t, func(t *rapid.T) {
		want := map[wire.VolumeID][]byte{1: make([]byte, size), 2: make([]byte, size)}
		have := map[wire.VolumeID][]byte{1: make([]byte, size), 2: make([]byte, size)}
		for v := range have {
			for i := range have[v] {
				want[v][i], have[v][i] = 0xff, 0xff // so that a zero differs from nothing
			}
		}
		var parts []core.Part
		datas := map[wire.Seq][]byte{}
		for seq := range wire.Seq(rapid.IntRange(0, 40).Draw(t, "updates")) {
			v := wire.VolumeID(rapid.IntRange(1, 2).Draw(t, "volume"))
			off := rapid.IntRange(0, size-1).Draw(t, "offset")
			n := rapid.IntRange(1, min(300, portion-off%portion)).Draw(t, "length")
			kind := rapid.SampledFrom([]wire.Kind{wire.KindWrite, wire.KindWrite, wire.KindZero, wire.KindTrim, wire.KindCheck}).Draw(t, "kind")
			data := bytes.Repeat([]byte{byte(seq + 1)}, n)
			if kind != wire.KindWrite {
				data = make([]byte, n)
			}
			if kind != wire.KindCheck {
				copy(want[v][off:], data)
			}
			datas[seq] = data
			frame := rapid.IntRange(0, 5).Draw(t, "frame")
			parts = append(parts, core.Part{
				Ref:    ref{1, journal.Ref{Segment: 1, Offset: int64(frame)}},
				Update: &wire.Update{Seq: seq, Volume: v, Portion: uint32(off / portion), Kind: kind, Offset: uint64(off), Length: uint32(n)},
			})
		}
		slices.SortStableFunc(parts, func(a, b core.Part) int {
			return int(int64(a.Update.Volume)<<32+int64(a.Update.Portion)) - int(int64(b.Update.Volume)<<32+int64(b.Update.Portion))
		})
		limit := rapid.IntRange(1, 2000).Draw(t, "window")
		plan, err := makePlan(parts, limit)
		if err != nil {
			t.Fatal(err)
		}
		read := map[ref]bool{}
		for _, w := range plan {
			if w.bytes > limit && len(w.frames) > 1 {
				t.Fatalf("a window of %d frames has %d bytes, limit %d", len(w.frames), w.bytes, limit)
			}
			for _, f := range w.frames {
				if read[f.ref] {
					t.Fatalf("frame %v is read twice", f.ref)
				}
				read[f.ref] = true
			}
			at := w.layout(parts)
			arena := make([]byte, w.bytes)
			for i, p := range w.pieces {
				if u := parts[p.Part].Update; u.Kind == wire.KindWrite {
					copy(arena[at[i]:], datas[u.Seq][p.From:p.From+p.Length])
				}
			}
			for _, r := range w.requests(parts, at, arena, apply.Request{}, map[wire.VolumeID]wire.AgentID{1: 9, 2: 9}) {
				if err := r.Validate(); err != nil {
					t.Fatal(err)
				}
				for i, p := range r.Pieces {
					data := p.Data
					if data == nil {
						data = make([]byte, p.Length)
					}
					copy(have[r.Volume][p.Offset:], data)
					if i > 0 && p.Kind == r.Pieces[i-1].Kind && r.Pieces[i-1].End() == p.Offset {
						t.Fatalf("pieces %d and %d are neighbours and not one", i-1, i)
					}
				}
			}
		}
		for v := range want {
			if !bytes.Equal(want[v], have[v]) {
				t.Fatalf("volume %d differs", v)
			}
		}
	})
}

func TestRequestsAreBounded(t *testing.T) {
	var parts []core.Part
	for i := range 20 {
		parts = append(parts, core.Part{
			Ref: ref{1, journal.Ref{Segment: 1}}, Index: i,
			Update: &wire.Update{Seq: wire.Seq(i), Volume: 1, Kind: wire.KindWrite, Offset: uint64(i) << 20, Length: 1 << 20},
		})
	}
	plan, err := makePlan(parts, 1<<20)
	if err != nil || len(plan) != 1 {
		t.Fatalf("plan of one frame: %d windows, %v", len(plan), err)
	}
	w := &plan[0]
	reqs := w.requests(parts, w.layout(parts), make([]byte, w.bytes), apply.Request{}, map[wire.VolumeID]wire.AgentID{1: 9})
	total := 0
	for _, r := range reqs {
		if err := r.Validate(); err != nil {
			t.Error(err)
		}
		total += r.DataBytes()
	}
	if total != 20<<20 || len(reqs) > 4 {
		t.Errorf("%d bytes in %d requests", total, len(reqs))
	}
	if gone := w.requests(parts, w.layout(parts), make([]byte, w.bytes), apply.Request{}, nil); len(gone) != 0 {
		t.Errorf("%d requests for a volume that does not exist", len(gone))
	}
}
