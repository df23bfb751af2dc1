package journal_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"flotilla/agent/journal"
	"flotilla/agent/vfs/crashfs"
	"flotilla/wire"
)

// model is what a workload knows about its records.
type model struct {
	appended map[uint64]int      // size by tag, of everything that Append took
	durable  map[uint64]wire.Set // what done reported durable
	freed    wire.Set
	next     uint64
}

func newModel() *model {
	return &model{appended: map[uint64]int{}, durable: map[uint64]wire.Set{}}
}

// work appends groups of records, lets marks be written, and frees, until it is through or the journal fails.
func (m *model) work(j *journal.Journal, rounds int) {
	for round := range rounds {
		set := m.freed + 3
		results := make(chan uint64, 8)
		waiting := 0
		for i := range 1 + round%4 {
			tag := m.next
			m.next++
			n := []int{100, 9000, 30000, 3000, 17000}[(round+i)%5]
			_, err := j.Append(journal.Entry{Group: 1, Set: set, Tag: tag, Parts: [][]byte{payload(tag, n)}},
				func(_ journal.Ref, err error) {
					if err == nil {
						m.durable[tag] = set
					}
					results <- tag
				})
			if err != nil {
				break
			}
			m.appended[tag] = n
			waiting++
		}
		for range waiting {
			<-results
		}
		if round%3 == 1 {
			time.Sleep(time.Second) // Virtual: lets the mark be written.
		}
		m.freed++
		j.Free(1, m.freed)
		synctest.Wait()
	}
}

// check compares what a journal replayed with what it must and may hold.
func (m *model) check(t *testing.T, records []journal.Record) {
	t.Helper()
	found := map[uint64]bool{}
	last := -1
	for _, r := range records {
		n, known := m.appended[r.Tag]
		if !known || n != len(r.Payload) || !bytes.Equal(r.Payload, payload(r.Tag, n)) {
			t.Errorf("replayed record %d with %d bytes that was never appended like this", r.Tag, len(r.Payload))
		}
		if int(r.Tag) <= last {
			t.Errorf("record %d was replayed after %d", r.Tag, last)
		}
		last = int(r.Tag)
		found[r.Tag] = true
		m.durable[r.Tag] = r.Set
	}
	for tag, set := range m.durable {
		if set > m.freed && !found[tag] {
			t.Errorf("record %d of set %d was durable and is missing; sets up to %d are free", tag, set, m.freed)
		}
	}
}

// stride returns the step from one crash point to the next: with -short, as under the race detector, which has nothing to
// find in most of them and takes ten times as long, every seventh is tried.
func stride() int {
	if testing.Short() {
		return 7
	}
	return 1
}

// crashSeeds returns how many seeds each crash point is tried with; FLOTILLA_SEEDS overrides.
func crashSeeds(t *testing.T) int {
	if s := os.Getenv("FLOTILLA_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if testing.Short() {
		return 1
	}
	return 2
}

// TestCrashAtEveryWrite cuts the power at the k-th operation for every k, opens again, and now and then cuts it in
// the middle of that too.
func TestCrashAtEveryWrite(t *testing.T) {
	for _, preallocate := range []bool{true, false} {
		for seed := range crashSeeds(t) {
			t.Run(fmt.Sprintf("preallocate=%v/seed=%d", preallocate, seed), func(t *testing.T) {
				opt := small()
				opt.Preallocate = preallocate
				for k := 1; ; k += stride() {
					through := false
					synctest.Test(t, func(t *testing.T) { through = crashAt(t, opt, uint64(seed), k) })
					if t.Failed() {
						t.Fatalf("failed at k=%d", k)
					}
					if through {
						if k < 50 {
							t.Fatalf("the workload has only %d operations", k)
						}
						break
					}
				}
			})
		}
	}
}

// crashAt reports true if the workload ended before the k-th operation.
func crashAt(t *testing.T, opt journal.Options, seed uint64, k int) bool {
	fsys := crashfs.New(seed<<32 + uint64(k))
	m := newModel()
	fsys.CutAt(k)
	j, _, err := tryOpen(fsys, opt)
	if err == nil {
		m.work(j, 24)
		err = j.Close()
	}
	through := !fsys.Down()
	if through && err != nil {
		t.Errorf("without a power cut: %v", err)
	}
	// The first recovery is cut short as well, at a point that depends on k.
	fsys.Restart()
	fsys.CutAt(1 + k%7)
	if j, records, err := tryOpen(fsys, opt); err == nil {
		m.check(t, records)
		m.work(j, 2)
		j.Close() //nolint:errcheck // It may or may not have met the cut.
	} else if !fsys.Down() {
		t.Errorf("recovery: %v", err)
	}
	fsys.Restart()
	j, records, err := tryOpen(fsys, opt)
	if err != nil {
		t.Errorf("second recovery: %v", err)
		return through
	}
	m.check(t, records)
	m.work(j, 6)
	if err := j.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	j, records, err = tryOpen(fsys, opt)
	if err != nil {
		t.Errorf("third open: %v", err)
		return through
	}
	m.check(t, records)
	if err := j.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	return through
}

// TestFailAtEveryWrite lets the k-th operation fail, goes on, and cuts the power at the end.
func TestFailAtEveryWrite(t *testing.T) {
	for _, cause := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		for seed := range crashSeeds(t) {
			for k := 1; ; k += stride() {
				n := 0
				synctest.Test(t, func(t *testing.T) {
					fsys := crashfs.New(uint64(seed)<<32 + uint64(k))
					fsys.SetHook(func(op crashfs.Op) error {
						if op.Kind == crashfs.Read {
							return nil
						}
						if n++; n == k {
							return cause
						}
						return nil
					})
					m := newModel()
					if j, _, err := tryOpen(fsys, small()); err == nil {
						m.work(j, 24)
						if err := j.Close(); err != nil {
							wantErr(t, err, journal.ErrLost)
						}
					}
					fsys.SetHook(nil)
					fsys.Restart()
					fsys.Remove(dir + "/lost") //nolint:errcheck // It may have come to that.
					j, records := open(t, fsys, small())
					m.check(t, records)
					m.work(j, 6)
					closeJournal(t, j)
					j, records = open(t, fsys, small())
					m.check(t, records)
					closeJournal(t, j)
				})
				if t.Failed() {
					t.Fatalf("failed with %v at seed=%d k=%d", cause, seed, k)
				}
				if n < k {
					break
				}
			}
		}
	}
}

// TestKillAtEveryWrite lets the process die instead of the machine: then what was not flushed is there, and must
// become durable before it is handed out, so that a power cut right after Open takes nothing of it.
func TestKillAtEveryWrite(t *testing.T) {
	for seed := range crashSeeds(t) {
		for k := 1; ; k += stride() {
			through := false
			synctest.Test(t, func(t *testing.T) {
				fsys := crashfs.New(uint64(seed)<<32 + uint64(k))
				m := newModel()
				fsys.KillAt(k)
				if j, _, err := tryOpen(fsys, small()); err == nil {
					m.work(j, 24)
					j.Close() //nolint:errcheck // It may or may not have met the end.
				}
				through = !fsys.Down()
				fsys.Kill()
				fsys.Restart()
				j, records := open(t, fsys, small())
				m.check(t, records)
				m.work(j, k%2) // Odd: goes on where the dead process was. Even: has done nothing but open.
				fsys.PowerCut()
				j.Close() //nolint:errcheck // It may want to write the mark.
				fsys.Restart()
				j, records = open(t, fsys, small())
				m.check(t, records)
				closeJournal(t, j)
			})
			if t.Failed() {
				t.Fatalf("failed at seed=%d k=%d", seed, k)
			}
			if through {
				break
			}
		}
	}
}

// A process that died between naming its first segment and flushing the name leaves that to the next one.
func TestKilledBeforeTheNameWasFlushed(t *testing.T) {
	for seed := range uint64(20) {
		fsys := crashfs.New(seed)
		// Open syncs the directory; then come create, allocate, write, flush and rename.
		const rename = 6
		last := crashfs.Kind("")
		fsys.SetHook(func(op crashfs.Op) error { last = op.Kind; return nil })
		fsys.KillAt(rename)
		j, _ := open(t, fsys, small())
		if _, err := put(j, 1, 1, 100); err == nil || last != crashfs.Rename {
			t.Fatalf("append: %v; killed at %v", err, last)
		}
		j.Close() //nolint:errcheck // Its process is dead.
		fsys.SetHook(nil)
		fsys.Restart()
		j, _ = open(t, fsys, small())
		mustPut(t, j, 1, 2, 100)
		fsys.PowerCut()
		j.Close() //nolint:errcheck // The power is off.
		fsys.Restart()
		j, records := open(t, fsys, small())
		wantTags(t, records, 2)
		closeJournal(t, j)
	}
}
