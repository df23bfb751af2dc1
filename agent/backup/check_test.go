package backup_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"flotilla/agent/apply"
	"flotilla/agent/backup/shelltest"
	"flotilla/agent/core"
	"flotilla/blockdev/faulty"
	"flotilla/wire"
)

// checker submits writes and checks and looks at the answers.
type checker struct {
	t     *testing.T
	c     *shelltest.Cluster
	p     *shelltest.Primary
	rng   *rand.Rand
	asked map[wire.Seq][2]int64
	count map[core.CheckVerdict]int // 0: those without an answer
}

func newChecker(t *testing.T, c *shelltest.Cluster, seed uint64) *checker {
	return &checker{
		t: t, c: c, p: c.Agent(1).Primary(), rng: rand.New(rand.NewPCG(seed, 1)), asked: map[wire.Seq][2]int64{}, count: map[core.CheckVerdict]int{},
	}
}

// within draws a range inside of one portion.
func (k *checker) within(longest int64) (off, length int64) {
	portion := k.rng.Int64N(shelltest.Size / shelltest.Portion)
	off = k.rng.Int64N(shelltest.Portion)
	length = 1 + k.rng.Int64N(min(longest, shelltest.Portion-off))
	return portion*shelltest.Portion + off, length
}

// write submits one of the kinds of content.
func (k *checker) write() wire.Set {
	off, length := k.within(16 << 10)
	data := make([]byte, length)
	for i := range data {
		data[i] = byte(k.rng.Uint32())
	}
	return k.p.Submit([]wire.Kind{wire.KindWrite, wire.KindWrite, wire.KindZero, wire.KindTrim}[k.rng.IntN(4)], off, data)
}

func (k *checker) check() wire.Set {
	off, length := k.within(256 << 10)
	set, seq := k.p.Check(off, length)
	k.asked[seq] = [2]int64{off, length}
	return set
}

// answers takes what has come.
func (k *checker) answers(want ...core.CheckVerdict) {
	k.t.Helper()
	for seq, v := range k.p.Checked() {
		r, ok := k.asked[seq]
		if !ok {
			continue // a repeated application answers again
		}
		delete(k.asked, seq)
		if r[1] == 0 {
			continue // asked by settle
		}
		k.count[v]++
		good := false
		for _, w := range want {
			good = good || v == w
		}
		if !good {
			k.t.Fatalf("check %d of %d bytes at %d: %v", seq, r[1], r[0], v)
		}
	}
}

// settle waits for what is asked. A check that could not be asked, as the target was just not open, is not answered; what
// is asked behind it is, sooner or later.
func (k *checker) settle(want ...core.CheckVerdict) {
	k.t.Helper()
	var behind wire.Seq
	k.c.Wait("the answers", func() bool {
		k.answers(want...)
		if _, waits := k.asked[behind]; !waits {
			for seq, r := range k.asked {
				if seq < behind {
					delete(k.asked, seq)
					k.count[0] += min(int(r[1]), 1)
				}
			}
		}
		if len(k.asked) == 0 {
			return true
		}
		var set wire.Set
		set, behind = k.p.Check(0, 1)
		k.asked[behind] = [2]int64{}
		k.p.WaitApplied(set)
		return false
	})
}

// expect asks until it is answered.
func (k *checker) expect(off, length int64, want core.CheckVerdict) {
	k.t.Helper()
	for before := -1; before != k.count[0]; {
		before = k.count[0]
		set, seq := k.p.Check(off, length)
		k.asked[seq] = [2]int64{off, length}
		k.p.WaitApplied(set)
		k.settle(want)
	}
}

// Checks between writes of the same set and range compare the state at their own place, wherever they stand.
func TestCheckSeesItsPlace(t *testing.T) {
	for _, backups := range []int{0, 3} {
		c := shelltest.New(t, shelltest.Config{Seed: 31, Backups: backups})
		c.StartAll()
		k := newChecker(t, c, uint64(backups))
		k.p.WaitApplied(k.write()) // of the first set after the opening of the target it is not known whether it is a repeat
		for range 12 {
			var set wire.Set
			for range 120 {
				set = k.write()
				if k.rng.IntN(3) == 0 {
					set = k.check()
				}
			}
			k.p.WaitApplied(set)
			k.settle(core.CheckSame)
		}
		k.p.CheckTarget()
		if k.count[core.CheckSame] < 100 {
			t.Errorf("verdicts %v", k.count)
		}
	}
}

// One wrong bit in the range is found, also where the same set writes into it, unless it is under what is written.
func TestCheckFindsOneBit(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 32, Backups: 2})
	c.StartAll()
	k := newChecker(t, c, 7)
	k.p.WaitApplied(k.write())
	for range 40 {
		off, length := k.within(256 << 10)
		at := off + k.rng.Int64N(length)
		var b [1]byte
		if _, err := c.Target.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		right, bit := b[0], byte(1)<<k.rng.IntN(8)
		flip := func(v byte) {
			if _, err := c.Target.WriteAt([]byte{v}, at); err != nil {
				t.Fatal(err)
			}
		}
		flip(right ^ bit)
		if before := at - off; before > 0 { // the set also writes in front of it
			data := make([]byte, 1+k.rng.Int64N(before))
			k.p.Submit(wire.KindWrite, off, data)
		}
		k.expect(off, length, core.CheckDiffers)
		// Written over in the same set, below the check's seq, it makes no difference.
		k.p.Submit(wire.KindWrite, at, []byte{right})
		k.expect(off, length, core.CheckSame)
	}
	k.p.CheckTarget()
}

// When sets are applied again, whatever part of them was written before, no check says that anything differs.
func TestCheckOfRepeatedSets(t *testing.T) {
	c := shelltest.New(t, shelltest.Config{Seed: 33, Backups: 2})
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(33, 2))
	repeats, inside := 0, false
	c.OnCall = func(from wire.AgentID, req *apply.Request) error {
		mu.Lock()
		lost := !inside && !req.Checks && rng.IntN(4) == 0
		inside = inside || lost
		mu.Unlock()
		if !lost {
			return nil
		}
		// It is performed, and its answer does not come.
		err := c.Agent(1).Secondary.OnApply(context.Background(), from, req)
		mu.Lock()
		defer mu.Unlock()
		inside = false
		repeats++
		return errors.Join(errors.New("the answer is lost"), err)
	}
	c.StartAll()
	k := newChecker(t, c, 9)
	k.p.WaitApplied(k.write())
	for round := range 25 {
		if round%5 == 4 { // a failed flush has the target opened anew
			c.Target.Inject(faulty.Fault{Op: faulty.Flush, Times: 1})
		}
		var set wire.Set
		for range 60 {
			set = k.write()
			if k.rng.IntN(3) == 0 {
				set = k.check()
			}
		}
		k.p.WaitApplied(set)
		k.settle(core.CheckSame, core.CheckUnknown)
	}
	k.p.CheckTarget()
	mu.Lock()
	defer mu.Unlock()
	if repeats < 10 || k.count[core.CheckSame] < 50 || k.count[core.CheckUnknown] == 0 {
		t.Errorf("%d repeats, verdicts %v", repeats, k.count)
	}
	t.Logf("%d repeats, verdicts %v", repeats, k.count)
}
