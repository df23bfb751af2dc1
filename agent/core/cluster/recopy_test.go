package cluster

import (
	"strings"
	"testing"

	"flotilla/wire"
)

// TestRecopy: a volume leaves the recovery points, its primary's incarnation ends, and only what is said of the new copy
// makes it whole again.
func TestRecopy(t *testing.T) {
	s := New("c")
	index := uint64(1)
	do := func(c Command) error {
		t.Helper()
		index++
		_, err := s.Apply(index<<8, &c)
		return err
	}
	must := func(c Command) {
		t.Helper()
		if err := do(c); err != nil {
			t.Fatal(err)
		}
	}
	must(Command{AddAgent: &AddAgent{Name: "a", Address: "a:1", Primary: true, Backup: true, Secondary: true}})
	must(Command{CreateGroup: &CreateGroup{Name: "g"}})
	for _, name := range []string{"v", "w"} {
		must(Command{CreateVolume: &CreateVolume{Group: 1, Name: name, Size: 1 << 20, Primary: 1, Source: "/s" + name, Secondary: 1, Target: "/t" + name}})
	}
	must(Command{Admit: &Admit{Agent: 1}})
	g := s.Groups[1]
	attach := func(nonce uint64) *Incarnation {
		t.Helper()
		must(Command{Attach: &Attach{Group: 1, Primary: 1, Nonce: nonce}})
		must(Command{Open: &Open{Group: 1, First: g.Granted + 1, Last: g.Granted + 4, View: s.View}})
		return g.Live(1)
	}
	commit := func(n wire.Set, copied []wire.VolumeID, copies []uint64) {
		t.Helper()
		must(Command{Commit: &Commit{Group: 1, UpTo: n, View: s.View, Copied: copied, Copies: copies}})
		if g.Committed != n {
			t.Fatalf("committed is %d, not %d", g.Committed, n)
		}
	}
	old := attach(1)
	v, w := g.Volumes[1], g.Volumes[2]
	both := []wire.VolumeID{1, 2}
	commit(1, both, g.Copies(both))
	if v.CopiedAt != 1 || w.CopiedAt != 1 || !v.Says(old.ID) {
		t.Fatalf("after the first copy: %+v, %+v", v, w)
	}
	said := g.Copies(both)
	must(Command{RecopyVolume: &RecopyVolume{Volume: 1}})
	if v.CopiedAt != 0 || w.CopiedAt != 1 || !old.Ended || v.Says(old.ID) {
		t.Errorf("after the recopy: %+v, %+v, incarnation %+v", v, w, old)
	}
	commit(2, both, said) // proposed before it
	if v.CopiedAt != 0 {
		t.Error("what was said of the old target counts for the new one")
	}
	if now := attach(2); !v.Says(now.ID) || now == old {
		t.Errorf("incarnation %+v says nothing of copy %d", now, v.Copy)
	}
	commit(3, both, g.Copies(both))
	if v.CopiedAt != 3 || w.CopiedAt != 1 {
		t.Errorf("after the new copy: %+v, %+v", v, w)
	}
	for _, c := range []struct {
		volume wire.VolumeID
		want   string
	}{{9, "no volume 9"}, {1, "is promoting"}} {
		if c.volume == 1 {
			must(Command{Promote: &Promote{Group: 1}})
		}
		if err := do(Command{RecopyVolume: &RecopyVolume{Volume: c.volume}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("volume %d: %v, want %q", c.volume, err, c.want)
		}
	}
}
