package primary

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"flotilla/agent/core"
	"flotilla/agent/vfs"
	"flotilla/agent/vfs/crashfs"
	"flotilla/wire"
)

const kib = 1 << 10

func newSpool(fsys vfs.FS, limit, segment, total int64) *spool {
	return &spool{fs: fsys, dir: "/spool", name: "1.spool", limit: limit, size: segment, total: &spoolTotal{limit: total}}
}

// sealedWrites makes writes of so many bytes, each of its own content.
func sealedWrites(first wire.Seq, lengths ...int) []wire.Update {
	ups := make([]wire.Update, len(lengths))
	for i, n := range lengths {
		ups[i] = wire.Update{Seq: first + wire.Seq(i), Volume: 1, Kind: wire.KindWrite, Length: uint32(n), Data: make([]byte, n)}
		for k := range ups[i].Data {
			ups[i].Data[k] = byte(int(first) + 7*i + k)
		}
		ups[i].Seal(1, 1)
	}
	return ups
}

// readBack takes a frame of updates whose data are in the spool, as a sender does.
func readBack(ups []wire.Update, places []*spooled) ([]wire.Update, error) {
	out := &core.Outgoing{Header: wire.BodyHeader{Group: 1, Incarnation: 1}, Updates: slices.Clone(ups)}
	for i := range out.Updates {
		out.Updates[i].Data, out.Updates[i].Sum = nil, 0
		out.Handles = append(out.Handles, places[i])
	}
	_, err := unspill(out, nil)
	return out.Updates, err
}

func putAll(t *testing.T, s *spool, ups []wire.Update) []*spooled {
	t.Helper()
	places, _, err := s.put(ups, nil)
	if err != nil || len(places) != len(ups) {
		t.Fatalf("put %d payloads: %d, %v", len(ups), len(places), err)
	}
	return places
}

func release(places []*spooled) {
	for _, p := range places {
		p.Release()
	}
}

// TestSpoolGivesBack: what was put comes back, files are bounded and have no names, and are gone with the last payload.
func TestSpoolGivesBack(t *testing.T) {
	fsys := crashfs.New(1)
	s := newSpool(fsys, 64*kib, 16*kib, 1<<30)
	ups := sealedWrites(1, 4*kib, 8*kib, 3*kib, 5*kib, 16*kib, 1*kib)
	places := putAll(t, s, ups)
	if n, length := adjacent([]any{places[0], places[1], places[2], places[3]}); n != 3 || length != 15*kib {
		t.Errorf("%d of them, %d bytes, lie one behind the other; the fourth is in another file", n, length)
	}
	got, err := readBack(ups, places)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if !bytes.Equal(got[i].Data, ups[i].Data) || got[i].Sum != ups[i].Sum {
			t.Errorf("payload %d came back as another", i)
		}
	}
	if names, _ := fsys.List("/spool"); len(names) != 0 {
		t.Errorf("files have names: %v", names)
	}
	if s.used != 64*kib || s.total.used.Load() != s.used {
		t.Errorf("takes %d bytes, of the agent's %d", s.used, s.total.used.Load())
	}
	more := sealedWrites(9, 16*kib)
	if places, _, err := s.put(more, nil); !errors.Is(err, errSpoolFull) || len(places) != 0 {
		t.Fatalf("a full spool took %d: %v", len(places), err)
	}
	if r := s.room(); !r.full || r.fill() != 1 || r.free() != 0 {
		t.Errorf("full: %+v", r)
	}
	places[0].Retain() // a sender is at it
	release(places[:3])
	s.reap()
	if s.used != 64*kib {
		t.Errorf("a file that is being read is gone")
	}
	places[0].Release()
	s.reap()
	if s.used != 48*kib || s.room().full {
		t.Errorf("takes %d bytes", s.used)
	}
	again := putAll(t, s, more)
	release(places[3:])
	release(again)
	s.reap()
	if s.used != 0 || s.live != 0 || s.total.used.Load() != 0 || len(s.segs) != 0 {
		t.Errorf("an empty spool takes %d bytes, %d payloads of it, %d of the agent's", s.used, s.live, s.total.used.Load())
	}
	s.close()
	if _, _, err := s.put(more, nil); !errors.Is(err, errSpoolClosed) {
		t.Errorf("a closed spool: %v", err)
	}
}

// TestSpoolBounds: neither the agent's limit nor what the disk must keep free is passed.
func TestSpoolBounds(t *testing.T) {
	fsys := crashfs.New(1)
	total := &spoolTotal{limit: 48 * kib}
	a, b := newSpool(fsys, 1<<20, 16*kib, 0), newSpool(fsys, 1<<20, 16*kib, 0)
	a.total, b.total = total, total
	held := putAll(t, a, sealedWrites(1, 16*kib, 16*kib))
	putAll(t, b, sealedWrites(1, 16*kib))
	if _, _, err := b.put(sealedWrites(2, 16*kib), nil); !errors.Is(err, errSpoolFull) {
		t.Errorf("above the agent's limit: %v", err)
	}
	b.again()
	if !b.room().full {
		t.Error("there is room where there is none")
	}
	release(held)
	a.reap()
	b.again()
	putAll(t, b, sealedWrites(2, 16*kib))

	free := int64(100*kib + 16*kib)
	disk := spaced{FS: crashfs.New(1), size: 1000 * kib, free: &free}
	s := newSpool(disk, 1<<20, 16*kib, 1<<30)
	putAll(t, s, sealedWrites(1, 16*kib)) // leaves a tenth
	free -= 16 * kib
	if _, _, err := s.put(sealedWrites(2, 16*kib), nil); !errors.Is(err, errSpoolFull) {
		t.Errorf("into the reserve: %v", err)
	}
	s.again()
	if r := s.room(); !r.full || r.fill() != 1 {
		t.Errorf("full: %+v", r)
	}
	free += 16 * kib
	s.again()
	putAll(t, s, sealedWrites(2, 16*kib))
}

// spaced is a disk of a given size.
type spaced struct {
	vfs.FS
	size int64
	free *int64
}

func (s spaced) Space(string) (int64, int64, error) { return s.size, *s.free, nil }

// TestSpoolFaults makes every operation of the spool fail, by name, with an error of the disk and for want of space: nothing is
// lost that was there, nothing is counted that is not, and once the disk works again so does the spool.
func TestSpoolFaults(t *testing.T) {
	for _, kind := range []crashfs.Kind{crashfs.Space, crashfs.Create, crashfs.Remove, crashfs.Allocate, crashfs.Write, crashfs.Read} {
		for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
			t.Run(string(kind)+" "+fault.Error(), func(t *testing.T) {
				fsys := crashfs.New(1)
				s := newSpool(fsys, 1<<20, 16*kib, 1<<20)
				ups := sealedWrites(1, 8*kib, 8*kib)
				places := putAll(t, s, ups)
				hit := 0
				fsys.SetHook(func(op crashfs.Op) error {
					if op.Kind != kind {
						return nil
					}
					hit++
					return fault
				})
				more := sealedWrites(3, 8*kib)
				if kind == crashfs.Read {
					if _, err := readBack(ups, places); !errors.Is(err, fault) {
						t.Errorf("read back: %v", err)
					}
				} else {
					got, _, err := s.put(more, nil)
					if len(got) != 0 || err == nil {
						t.Errorf("put %d: %v", len(got), err)
					}
					full := fault == syscall.ENOSPC
					if s.room().full != full || errors.Is(err, errSpoolFull) != full {
						t.Errorf("full %v: %v", s.room().full, err)
					}
				}
				if hit == 0 {
					t.Fatal("it was not called")
				}
				fsys.SetHook(nil)
				if s.live != 16*kib || s.used != s.total.used.Load() || int(s.used) != len(s.segs)*16*kib {
					t.Errorf("counted %d bytes, takes %d in %d files, of the agent's %d", s.live, s.used, len(s.segs), s.total.used.Load())
				}
				if got, err := readBack(ups, places); err != nil || !bytes.Equal(got[1].Data, ups[1].Data) {
					t.Errorf("read back what was there: %v", err)
				}
				s.again()
				places = append(places, putAll(t, s, more)...)
				release(places)
				s.reap()
				if s.used != 0 || s.total.used.Load() != 0 {
					t.Errorf("an empty spool takes %d bytes, %d of the agent's", s.used, s.total.used.Load())
				}
			})
		}
	}
}

// TestSpoolIsVerified: another payload's bytes, or flipped ones, are not sent.
func TestSpoolIsVerified(t *testing.T) {
	s := newSpool(rotten{crashfs.New(1)}, 1<<20, 64*kib, 1<<20)
	ups := sealedWrites(1, 4*kib, 4*kib, 4*kib)
	places := putAll(t, s, ups)
	if _, err := readBack(ups[:1], places[:1]); err != nil {
		t.Fatal(err)
	}
	if _, err := readBack(ups, places); !errors.Is(err, wire.ErrSum) || !strings.Contains(err.Error(), "/spool") {
		t.Errorf("flipped: %v", err)
	}
	if _, err := readBack(ups[:1], places[1:2]); !errors.Is(err, wire.ErrSum) {
		t.Errorf("another's: %v", err)
	}
}

// rotten flips a bit of each byte 9000 that is read.
type rotten struct{ vfs.FS }

type rottenFile struct{ vfs.File }

func (r rotten) Create(name string) (vfs.File, error) {
	f, err := r.FS.Create(name)
	return rottenFile{f}, err
}

func (f rottenFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if at := 9000 - off; at >= 0 && at < int64(n) {
		p[at] ^= 1
	}
	return n, err
}

// TestSpoolRandom puts and releases at random against a model.
func TestSpoolRandom(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		limit := int64(16+rng.IntN(200)) * kib
		s := newSpool(crashfs.New(seed), limit, 16*kib, 1<<30)
		type kept struct {
			u wire.Update
			p *spooled
		}
		var have []kept
		seq := wire.Seq(1)
		for range 400 {
			switch rng.IntN(3) {
			case 0, 1:
				lengths := make([]int, 1+rng.IntN(6))
				for i := range lengths {
					lengths[i] = 1 + rng.IntN(8*kib)
				}
				ups := sealedWrites(seq, lengths...)
				seq += wire.Seq(len(ups))
				places, _, err := s.put(ups, nil)
				if err != nil && !errors.Is(err, errSpoolFull) {
					t.Fatal(err)
				}
				for i, p := range places {
					have = append(have, kept{ups[i], p})
				}
			default: // mostly the oldest
				for range min(len(have), rng.IntN(8)) {
					i := 0
					if rng.IntN(5) == 0 {
						i = rng.IntN(len(have))
					}
					have[i].p.Release()
					have = slices.Delete(have, i, i+1)
				}
				s.reap()
			}
			var live int64
			for _, k := range have {
				live += int64(k.p.n)
			}
			if s.used > limit || s.live != live || live > s.used {
				t.Fatalf("seed %d: takes %d bytes of %d, counts %d payloads, there are %d", seed, s.used, limit, s.live, live)
			}
			if len(have) > 0 {
				k := have[rng.IntN(len(have))]
				if got, err := readBack([]wire.Update{k.u}, []*spooled{k.p}); err != nil || !bytes.Equal(got[0].Data, k.u.Data) {
					t.Fatalf("seed %d: read back: %v", seed, err)
				}
			}
		}
		for _, k := range have {
			k.p.Release()
		}
		s.reap()
		if s.used != 0 {
			t.Fatalf("seed %d: an empty spool takes %d bytes", seed, s.used)
		}
	}
}
