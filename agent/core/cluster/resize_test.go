package cluster

import (
	"strings"
	"testing"

	"flotilla/wire"
)

// resizing is a state with one group of two volumes, of which the second keeps its bitmap at its end.
type resizing struct {
	t     *testing.T
	s     *State
	index uint64
}

func newResizing(t *testing.T) *resizing {
	r := &resizing{t: t, s: New("c"), index: 1}
	r.must(Command{AddAgent: &AddAgent{Name: "a", Address: "a:1", Primary: true, Backup: true, Secondary: true}})
	r.must(Command{CreateGroup: &CreateGroup{Name: "g"}})
	for _, name := range []string{"v", "w"} {
		r.must(Command{CreateVolume: &CreateVolume{
			Group: 1, Name: name, Size: 1 << 20, Primary: 1, Source: "/s" + name, Secondary: 1, Target: "/t" + name, BitmapAtEnd: name == "w",
		}})
	}
	r.must(Command{Admit: &Admit{Agent: 1}})
	return r
}

func (r *resizing) do(c Command) error {
	r.t.Helper()
	r.index++
	_, err := r.s.Apply(r.index<<8, &c)
	return err
}

func (r *resizing) must(c Command) {
	r.t.Helper()
	if err := r.do(c); err != nil {
		r.t.Fatal(err)
	}
}

// sizes checks a volume's size, the one to which it grows, and how far updates of it may reach.
func (r *resizing) sizes(size, grow, reach int64) {
	r.t.Helper()
	if v := r.s.Groups[1].Volumes[1]; v.Size != size || v.Grow != grow || v.Reach() != reach {
		r.t.Fatalf("size %d, growing to %d, reach %d; want %d, %d, %d", v.Size, v.Grow, v.Reach(), size, grow, reach)
	}
}

func resizeTo(volume wire.VolumeID, size int64) Command {
	return Command{ResizeVolume: &ResizeVolume{Volume: volume, Size: size}}
}

func grownTo(size int64) Command { return Command{GrowVolume: &GrowVolume{Volume: 1, Size: size}} }

// TestResize: updates may reach the new size at once, clients are offered it when the primary says so, and a primary that
// speaks of another size than is wanted now changes nothing.
func TestResize(t *testing.T) {
	r := newResizing(t)
	const before, first, second = 1 << 20, 2 << 20, 3 << 20
	r.must(grownTo(first)) // nobody asked for it
	r.sizes(before, 0, before)
	r.must(resizeTo(1, first))
	r.sizes(before, first, first)
	if got := r.s.Groups[1].Growing(); len(got) != 1 || got[0] != 1 {
		t.Errorf("growing are %v", got)
	}
	r.must(resizeTo(1, first)) // repeated
	r.must(resizeTo(1, second))
	r.must(grownTo(first)) // late
	r.sizes(before, second, second)
	decoded, err := Decode(r.s.Encode())
	if err != nil || decoded.Groups[1].Volumes[1].Grow != second {
		t.Fatalf("the encoded state: %v, %+v", err, decoded)
	}
	r.must(grownTo(second))
	r.sizes(second, 0, second)
	r.must(grownTo(second))
	r.must(resizeTo(1, second)) // it has that size
	r.sizes(second, 0, second)
}

// TestResizeRefused: each refusal says why, with the numbers.
func TestResizeRefused(t *testing.T) {
	r := newResizing(t)
	refused := func(c Command, want string) {
		t.Helper()
		if err := r.do(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	refused(resizeTo(9, 2<<20), "no volume 9")
	refused(resizeTo(1, 1<<19), "can not shrink to 524288")
	refused(resizeTo(1, 2<<20+512), "choose 2097152")
	refused(resizeTo(2, 2<<20), "bitmap lies at the end")
	r.must(resizeTo(1, 4<<20))
	refused(resizeTo(1, 2<<20), "growing to 4194304")
	refused(resizeTo(1, 1<<20), "growing to 4194304")
	r.sizes(1<<20, 4<<20, 4<<20)
	r.s.Groups[1].Volumes[1].Removed = &Removal{}
	refused(resizeTo(1, 8<<20), "taken out of the group")
	r.must(grownTo(4 << 20))
	r.sizes(1<<20, 4<<20, 4<<20)
}

// TestPromoteWhileGrowing: what was on its way above the size can still be brought together and applied; the group is
// promoted in the size that clients knew.
func TestPromoteWhileGrowing(t *testing.T) {
	r := newResizing(t)
	r.must(Command{Attach: &Attach{Group: 1, Primary: 1, Nonce: 1}})
	r.must(Command{Open: &Open{Group: 1, First: 1, Last: 4, View: r.s.View}})
	r.must(resizeTo(1, 2<<20))
	r.must(Command{Promote: &Promote{Group: 1}})
	if err := r.do(resizeTo(1, 3<<20)); err == nil || !strings.Contains(err.Error(), "is promoting") {
		t.Errorf("a resize while promoting: %v", err)
	}
	r.must(grownTo(2 << 20)) // proposed before
	r.sizes(1<<20, 2<<20, 2<<20)
	g := r.s.Groups[1]
	r.must(Command{Seal: &Seal{Group: 1, Inc: g.Incs[0].ID, View: r.s.View}})
	r.must(Command{Final: &Final{Group: 1, View: r.s.View}})
	if g.Phase != Promoted {
		t.Fatalf("the group is %v", g.Phase)
	}
	r.sizes(1<<20, 0, 1<<20)
}
