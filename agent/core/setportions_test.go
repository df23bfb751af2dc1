package core

import (
	"errors"
	"testing"
	"time"

	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// TestSetOfManyPortions: a set closes before its mark is longer than an update may be; one that can not be closed takes no
// more.
func TestSetOfManyPortions(t *testing.T) {
	for name, granted := range map[string]wire.Set{"closes": 8, "can not be closed": 1} {
		n, err := New(DefaultConfig(1, 1), Bootstrap(cluster.New("test"), []wire.AgentID{1}), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		n.state.Groups[1] = &cluster.Group{
			ID: 1, Phase: cluster.Replicating, SetBytes: 1 << 40, Granted: granted,
			Volumes: map[wire.VolumeID]*cluster.Volume{1: {ID: 1, Primary: 1}},
			Grants:  []cluster.Grant{{First: 1, Last: granted, Incs: []wire.Incarnation{9}}},
			Incs:    []*cluster.Incarnation{{ID: 9, Primary: 1, First: 1}},
		}
		s := &source{n: n, group: 1}
		s.detach()
		s.inc = 9
		s.openSet(1)
		n.sources[1] = s
		refused := 0
		for i := range uint32(3 * setPortions) {
			up := []wire.Update{{Volume: 1, Portion: i, Kind: wire.KindZero, Offset: uint64(i) << 20, Length: 1 << 20}}
			if _, _, err := n.Submit(time.Hour, 1, up, nil); errors.Is(err, ErrSetFull) {
				refused++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		marks := 0
		for _, it := range s.pending {
			if it.u.Kind == wire.KindMark {
				marks++
				if len(it.u.Data) > wire.MaxUpdateLength {
					t.Errorf("%s: a mark of %d bytes", name, len(it.u.Data))
				}
			}
		}
		if closes := granted > 1; closes && (refused > 0 || marks != 2) || !closes && (refused != setPortions || len(s.lines) != 2*setPortions) {
			t.Errorf("%s: %d refused, %d sets closed, %d portions in the open one", name, refused, marks, len(s.lines))
		}
		s.closeSet(2)
		if mark := s.pending[len(s.pending)-1].u; len(mark.Data) > wire.MaxUpdateLength {
			t.Errorf("%s: a mark of %d bytes", name, len(mark.Data))
		}
	}
}
