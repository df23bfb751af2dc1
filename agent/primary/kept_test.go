package primary

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"flotilla/agent/vfs"
	"flotilla/agent/vfs/crashfs"
	"flotilla/wire"
)

// resync begins a copy for which nothing is kept.
func (a *activity) resync() int64 {
	todo, _ := a.resume(0, 0, &keptBy{}, false)
	return todo
}

// nextResync is what the next incarnation copies, if nothing of earlier ones counts.
func (a *activity) nextResync() int64 {
	bytes, _ := a.resyncs(&keptBy{})
	return bytes
}

// allKept is a file that says of all extents that they are kept.
func allKept(s bitShape) (all []byte) {
	for sec := range s.keptSectors() {
		all = s.appendKept(all, sec, s.key(), keptFor{1, 1}, func(int) bool { return true })
	}
	return all
}

// keptShape has two sectors of what is kept.
var keptShape = bitShape{cluster: "c0ffee", volume: 7, size: (2*keptSectorBits - 100) * 4096, extent: 4096}

// keptModel is what is true of the extents whose fate a test follows: some at the start of each sector.
type keptModel struct {
	a      *activity
	rng    *rand.Rand
	copies map[int][]copyOf // since it was written last
	inc    wire.Incarnation
	open   wire.Set
	held   wire.Set
	ended  map[wire.Incarnation]wire.Set // what counts of them
	opened map[wire.Incarnation]wire.Set
}

// copyOf is a copy of an extent, or an incarnation that had it counted as if it were.
type copyOf struct {
	keptFor
	flushed bool
}

func newKeptModel(a *activity, seed uint64) *keptModel {
	m := &keptModel{
		a: a, rng: rand.New(rand.NewPCG(seed, 9)), copies: map[int][]copyOf{},
		ended: map[wire.Incarnation]wire.Set{}, opened: map[wire.Incarnation]wire.Set{},
	}
	m.attach()
	return m
}

func (m *keptModel) extent() int { return m.rng.IntN(2)*keptSectorBits + m.rng.IntN(12) }

func (m *keptModel) attach() {
	m.inc++
	m.open += 2
	m.held = 0
	by := keptBy{upTo: m.ended}
	_, _ = m.a.resume(m.inc, m.open, &by, true)
	m.opened[m.inc] = m.open
	for i := range m.copies {
		if m.a.ext.Kept(i) {
			m.copies[i] = append(m.copies[i], copyOf{keptFor{m.inc, m.open}, true})
		}
	}
}

// flush is the source's.
func (m *keptModel) flush() error {
	for _, cs := range m.copies {
		for k := range cs {
			cs[k].flushed = true
		}
	}
	return nil
}

func (m *keptModel) step() error {
	i := m.extent()
	off := int64(i) * m.a.shape.extent
	switch m.rng.IntN(8) {
	case 0:
		err := m.a.touch(off, 4096)
		if err != nil {
			m.a.dirtied(off, 4096)
			return err // the source is not written
		}
		delete(m.copies, i)
		m.a.numbered(off, 4096, m.open)
	case 1, 2, 3:
		first, n, _, _, ok := m.a.nextCopy(1)
		for ok && first != i { // the copier's order is not what this is about
			m.a.at, m.a.to, first = i, i+n, i
		}
		if before := m.a.ext.ToCopy(); ok {
			m.a.copied(first, n, m.open)
			if m.a.ext.ToCopy() < before {
				m.copies[i] = append(m.copies[i], copyOf{keptFor: keptFor{m.inc, m.open}})
			}
		}
	case 4:
		m.open++
		m.held = max(m.held, m.open-1-wire.Set(m.rng.IntN(2)))
	case 5:
		_, err := m.a.keep(m.inc, m.held, m.flush)
		return err
	case 6:
		return m.a.commit()
	case 7:
		if m.rng.IntN(4) == 0 {
			m.a.detach()
			if m.rng.IntN(3) > 0 {
				m.ended[m.inc] = max(m.held, m.opened[m.inc]-1)
			}
			m.attach()
		}
	}
	return nil
}

// check opens the log anew: what is kept was copied in a set that its sector names, the source was flushed then, and it was
// not written since.
func (m *keptModel) check(t *testing.T, fsys vfs.FS, p place) (kept int) {
	t.Helper()
	b, _, _ := p.open(t, fsys, keptShape)
	for i := range keptShape.extents() {
		if !b.ext.Kept(i) {
			continue
		}
		kept++
		by := b.kept.by[i/keptSectorBits]
		if !slices.ContainsFunc(m.copies[i], func(c copyOf) bool { return c.flushed && c.inc == by.inc && c.set <= by.set }) {
			t.Fatalf("extent %d is kept for %+v, and since it was written these are its copies: %+v", i, by, m.copies[i])
		}
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	return kept
}

// TestKeptCrashAtEveryWrite cuts the power at the k-th operation of the files, for every k.
func TestKeptCrashAtEveryWrite(t *testing.T) { inPlaces(t, keptCrashAtEveryWrite) }

func keptCrashAtEveryWrite(t *testing.T, p place) {
	kept, cuts := 0, 0
	for seed := range Rounds(40) {
		for k := 1; ; k++ {
			fsys := crashfs.New(seed)
			a, _, err := p.open(t, fsys, keptShape)
			if err != nil {
				t.Fatal(err)
			}
			m := newKeptModel(a, seed)
			fsys.CutAt(k)
			for s := 0; s < 80 && err == nil; s++ {
				err = m.step()
			}
			cut := fsys.Down()
			if !cut {
				fsys.PowerCut()
			}
			fsys.Restart()
			kept += m.check(t, fsys, p)
			cuts++
			if !cut {
				break
			}
		}
	}
	if t.Logf("%d extents were kept after %d cuts", kept, cuts); kept == 0 {
		t.Error("nothing was ever kept")
	}
}

// TestKeptFailedFlush lets writes and flushes of the files fail: what could not be taken back keeps writes from the source.
func TestKeptFailedFlush(t *testing.T) { inPlaces(t, keptFailedFlush) }

func keptFailedFlush(t *testing.T, p place) {
	kept := 0
	for seed := range Rounds(300) {
		fsys := crashfs.New(seed)
		a, _, err := p.open(t, fsys, keptShape)
		if err != nil {
			t.Fatal(err)
		}
		m := newKeptModel(a, seed)
		fail := rand.New(rand.NewPCG(seed, 3))
		fsys.SetHook(func(op crashfs.Op) error {
			if op.Kind != crashfs.Read && fail.IntN(8) == 0 {
				return syscall.EIO
			}
			return nil
		})
		for range 80 {
			_ = m.step()
		}
		fsys.SetHook(nil)
		fsys.PowerCut()
		fsys.Restart()
		kept += m.check(t, fsys, p)
	}
	if kept == 0 {
		t.Error("nothing was ever kept")
	}
}

// TestKeptRot flips a byte of the file: its sector counts for nothing, and the others for what they say.
func TestKeptRot(t *testing.T) {
	for at := int64(0); at < 2*bitSector; at += 13 {
		fsys := crashfs.New(1)
		a, _, _ := inStateDir.open(t, fsys, keptShape)
		if err := a.commit(); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(a.close(), vfs.WriteFileAtomic(fsys, keptName, allKept(keptShape)), fsys.Corrupt(keptName, at, 0x10)); err != nil {
			t.Fatal(err)
		}
		fsys.Restart()
		b, _, reason := inStateDir.open(t, fsys, keptShape)
		bad := int(at / bitSector)
		want := keptShape.extents() - (keptShape.keptBehind(bad) - keptShape.keptFirst(bad))
		if reason == nil || b.ext.Keeps() != want || b.ext.Kept(keptShape.keptFirst(bad)) {
			t.Fatalf("rot at byte %d: %d extents are kept, want %d: %v", at, b.ext.Keeps(), want, reason)
		}
		// The first write mends it, and is kept waiting until nobody can take it for what it was.
		if err := b.touch(int64(keptShape.keptFirst(bad))*4096, 1); err != nil {
			t.Fatal(err)
		}
		c, _, reason := inStateDir.open(t, fsys, keptShape)
		if reason != nil || c.ext.Keeps() != want {
			t.Fatalf("mended: %d extents are kept, want %d: %v", c.ext.Keeps(), want, reason)
		}
	}
}

// Bits that were damaged, are another copy's, or are all set on disk have nothing kept beside them.
func TestKeptNeedsItsBits(t *testing.T) {
	for name, open := range map[string]func(fsys *crashfs.FS) *activity{
		"damaged": func(fsys *crashfs.FS) *activity {
			if err := fsys.Corrupt(logName, bitSector+40, 1); err != nil {
				t.Fatal(err)
			}
			fsys.Restart()
			a, _, _ := inStateDir.open(t, fsys, keptShape)
			return a
		},
		"another copy": func(fsys *crashfs.FS) *activity {
			shape := keptShape
			shape.copy = 9
			a, _, _ := inStateDir.open(t, fsys, shape)
			return a
		},
		"recopied": func(fsys *crashfs.FS) *activity {
			a, _, _ := inStateDir.open(t, fsys, keptShape)
			if a.ext.Keeps() == 0 {
				t.Fatal("nothing was kept")
			}
			a.recopy(9)
			return a
		},
		"gone": func(fsys *crashfs.FS) *activity {
			if err := fsys.Remove(logName); err != nil {
				t.Fatal(err)
			}
			a, _, _ := inStateDir.open(t, fsys, keptShape)
			return a
		},
		"no log": func(fsys *crashfs.FS) *activity {
			a, _, _ := openActivity(inStateDir.medium(t, fsys), keptShape, true)
			if err := a.openKept(&stateFile{fs: fsys, name: keptName}); err != nil {
				t.Fatal(err)
			}
			return a
		},
	} {
		fsys := crashfs.New(1)
		a, _, _ := inStateDir.open(t, fsys, keptShape)
		if err := errors.Join(a.commit(), a.close(), vfs.WriteFileAtomic(fsys, keptName, allKept(keptShape))); err != nil {
			t.Fatal(err)
		}
		a = open(fsys)
		if n := a.ext.Keeps(); n != 0 {
			t.Errorf("%s: %d extents are kept", name, n)
		}
		if a.covers(0, 1) {
			t.Errorf("%s: a write does not wait until nothing is kept on disk", name)
		}
		if err := a.touch(0, 1); err != nil {
			t.Fatal(err)
		}
		b, _, _ := inStateDir.open(t, fsys, a.shape)
		if n := b.ext.Keeps(); n != 0 {
			t.Errorf("%s: %d extents are kept after a write", name, n)
		}
	}
}

// A state directory without room for the file costs no write.
func TestKeptWithoutRoom(t *testing.T) {
	fsys := crashfs.New(1)
	a, _, _ := inStateDir.open(t, fsys, keptShape)
	if err := a.commit(); err != nil {
		t.Fatal(err)
	}
	m := newKeptModel(a, 1)
	a.nextCopy(1)
	a.copied(0, 1, m.open)
	fsys.SetHook(func(op crashfs.Op) error {
		if op.Kind != crashfs.Read && strings.HasPrefix(op.Name, keptName) {
			return syscall.ENOSPC
		}
		return nil
	})
	if n, err := a.keep(m.inc, m.open, m.flush); n != 1 || err != nil {
		t.Fatalf("%d kept, %v", n, err)
	}
	if err := a.commit(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("commit: %v", err)
	}
	if err := a.touch(0, 1); err != nil {
		t.Errorf("a write fails, though nothing is kept on disk: %v", err)
	}
}

func FuzzParseKept(f *testing.F) {
	f.Add(keptShape.appendKept(nil, 1, 5, keptFor{7, 8}, func(i int) bool { return i%3 == 0 }))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < bitSector {
			return
		}
		by, bits, ok := parseKept(raw[:bitSector], 1, 5)
		if !ok {
			return
		}
		again := keptShape.appendKept(nil, 1, 5, by, func(i int) bool { return bitAt(bits, i-keptShape.keptFirst(1)) })
		if got, content, ok := parseKept(again, 1, 5); !ok || got != by || len(content) != len(bits) {
			t.Error("a sector does not survive being written again")
		}
	})
}
