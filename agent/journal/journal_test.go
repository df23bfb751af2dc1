package journal_test

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"flotilla/agent/journal"
	"flotilla/agent/vfs"
	"flotilla/agent/vfs/crashfs"
	"flotilla/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAppendReadReopen(t *testing.T) {
	for name, fsys := range map[string]struct {
		fs  vfs.FS
		dir string
	}{"crashfs": {newFS(), dir}, "os": {vfs.OS(), t.TempDir() + "/a/b"}} {
		t.Run(name, func(t *testing.T) {
			opt := small()
			opt.Dir = fsys.dir
			j, _ := open(t, fsys.fs, opt)
			var refs []journal.Ref
			var tags []uint64
			sizes := []int{0, 1, 7, 8, 9, 4096, 30000, 100, 30000, 30000, 30000, 30000, 5}
			for i, n := range sizes {
				refs = append(refs, mustPut(t, j, 1, uint64(i), n))
				tags = append(tags, uint64(i))
			}
			check := func(j *journal.Journal) {
				t.Helper()
				var buf []byte
				for i, ref := range refs {
					var err error
					if buf, err = j.Read(ref, buf); err != nil || !bytes.Equal(buf, payload(uint64(i), sizes[i])) {
						t.Errorf("read %d: %d bytes, %v", i, len(buf), err)
					}
				}
			}
			check(j)
			closeJournal(t, j)
			j, records := open(t, fsys.fs, opt)
			wantTags(t, records, tags...)
			for i, r := range records {
				if r.Ref != refs[i] {
					t.Errorf("record %d: ref %v, was %v", i, r.Ref, refs[i])
				}
			}
			check(j)
			mustPut(t, j, 1, 100, 10)
			closeJournal(t, j)
			j, records = open(t, fsys.fs, opt)
			wantTags(t, records, append(tags, 100)...)
			closeJournal(t, j)
		})
	}
}

// gate holds flushes back until it is opened.
type gate struct {
	closed atomic.Bool
	open   chan struct{}
}

// gatedFS makes SyncData wait at the gate.
type gatedFS struct {
	vfs.FS
	gate *gate
}

type gatedFile struct {
	vfs.File
	gate *gate
}

func (f gatedFS) Create(name string) (vfs.File, error) {
	file, err := f.FS.Create(name)
	return gatedFile{file, f.gate}, err
}

func (f gatedFile) SyncData() error {
	if f.gate.closed.Load() {
		<-f.gate.open
	}
	return f.File.SyncData()
}

func TestGroupCommitAndBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS()
		g := &gate{open: make(chan struct{})}
		opt := small()
		j, _ := open(t, gatedFS{fsys, g}, opt)
		mustPut(t, j, 1, 0, 10)
		time.Sleep(time.Second) // Virtual: the mark is written.
		before := j.Stats()
		g.closed.Store(true)

		var order []uint64
		done := func(tag uint64) func(journal.Ref, error) {
			return func(_ journal.Ref, err error) {
				if err != nil {
					t.Errorf("record %d: %v", tag, err)
				}
				order = append(order, tag)
			}
		}
		ref, err := j.Append(journal.Entry{Group: 1, Set: 1, Tag: 1, Parts: [][]byte{payload(1, 100)}}, done(1))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // The flusher stands in its flush of record 1.
		if got, err := j.Read(ref, nil); err != nil || !bytes.Equal(got, payload(1, 100)) {
			t.Errorf("read a record in flight: %v", err)
		}
		tag := uint64(2)
		for ; ; tag++ {
			e := journal.Entry{Group: 1, Set: 1, Tag: tag, Parts: [][]byte{payload(tag, 1000)}, NoWait: true}
			ref, err = j.Append(e, done(tag))
			if err != nil {
				wantErr(t, err, journal.ErrBusy)
				break
			}
			if got, err := j.Read(ref, nil); err != nil || !bytes.Equal(got, payload(tag, 1000)) {
				t.Errorf("read a record that waits: %v", err)
			}
		}
		if bytes := int(tag) * 1000; bytes > opt.MaxPending || bytes < opt.MaxPending/3 {
			t.Errorf("%d bytes were pending, the limit is %d", bytes, opt.MaxPending)
		}
		blocked := make(chan error, 1)
		go func() {
			_, err := put(j, 1, tag, 1000)
			blocked <- err
		}()
		synctest.Wait()
		select {
		case err := <-blocked:
			t.Errorf("an append beyond the bound returned: %v", err)
		default:
		}
		if len(order) != 0 {
			t.Errorf("%d records were reported before their flush", len(order))
		}
		g.closed.Store(false)
		close(g.open)
		if err := <-blocked; err != nil {
			t.Error(err)
		}
		closeJournal(t, j)
		for i, got := range order {
			if got != uint64(i+1) {
				t.Fatalf("records were reported as %v", order)
			}
		}
		if n := j.Stats().Batches - before.Batches; n > 4 {
			t.Errorf("%d writes for %d records, want one alone, one group, one more and a mark", n, tag)
		}
		j, records := open(t, fsys, opt)
		if len(records) != int(tag)+1 {
			t.Errorf("replayed %d of %d records", len(records), tag+1)
		}
		closeJournal(t, j)
	})
}

func TestFlushInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opt := small()
		opt.FlushInterval = 10 * time.Millisecond
		j, _ := open(t, newFS(), opt)
		for i := range 3 {
			start := time.Now()
			mustPut(t, j, 1, uint64(i), 10)
			if d := time.Since(start); i == 0 && d != 0 || i > 0 && d != opt.FlushInterval {
				t.Errorf("append %d took %v", i, d)
			}
		}
		time.Sleep(time.Second)
		start := time.Now()
		mustPut(t, j, 1, 3, 10)
		if d := time.Since(start); d != 0 {
			t.Errorf("an idle journal took %v", d)
		}
		closeJournal(t, j)
	})
}

func TestConcurrentAppends(t *testing.T) {
	fsys := newFS()
	opt := small()
	opt.Limit = 8 << 20
	j, _ := open(t, fsys, opt)
	const writers, each = 8, 100
	var wg sync.WaitGroup
	var read sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				tag := uint64(w*each + i)
				n := int(tag*37) % 3000
				read.Add(1)
				ref, err := j.Append(journal.Entry{Group: wire.GroupID(w), Set: wire.Set(i + 1), Tag: tag, Parts: [][]byte{payload(tag, n)}},
					func(_ journal.Ref, err error) {
						defer read.Done()
						if err != nil {
							t.Errorf("record %d: %v", tag, err)
						}
					})
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := j.Read(ref, nil); err != nil || !bytes.Equal(got, payload(tag, n)) {
					t.Errorf("read %d: %v", tag, err)
				}
				if i%10 == 9 && w%2 == 0 {
					j.Free(wire.GroupID(w), wire.Set(i-5))
				}
			}
		})
	}
	wg.Wait()
	read.Wait()
	closeJournal(t, j)
	j, records := open(t, fsys, opt)
	next := map[wire.GroupID]wire.Set{}
	kept := 0
	for _, r := range records {
		if r.Group%2 == 1 {
			kept++
		}
		if r.Set <= next[r.Group] {
			t.Errorf("group %d: set %d after %d", r.Group, r.Set, next[r.Group])
		}
		next[r.Group] = r.Set
		if !bytes.Equal(r.Payload, payload(r.Tag, len(r.Payload))) {
			t.Errorf("record %d has the wrong payload", r.Tag)
		}
	}
	if kept != writers/2*each {
		t.Errorf("%d records of groups that freed nothing, want %d", kept, writers/2*each)
	}
	closeJournal(t, j)
}

func TestDiskFull(t *testing.T) {
	for _, preallocate := range []bool{false, true} {
		t.Run(fmt.Sprintf("preallocate=%v", preallocate), func(t *testing.T) {
			fsys := newFS()
			opt := small()
			opt.Preallocate = preallocate
			j, _ := open(t, fsys, opt)
			fsys.SetSpace(200 << 10)
			var kept []uint64
			tag := uint64(1)
			for ; ; tag++ {
				if tag > 100 {
					t.Fatal("the disk is never full")
				}
				_, err := put(j, 1, tag, 9000)
				if err != nil {
					wantErr(t, err, journal.ErrFull)
					break
				}
				kept = append(kept, tag)
			}
			if err := j.Err(); err != nil {
				t.Fatalf("a full disk lost the journal: %v", err)
			}
			if _, err := put(j, 1, 1000, 9000); err == nil {
				t.Error("an append to the full disk succeeded")
			}
			fsys.SetSpace(-1)
			mustPut(t, j, 1, 2000, 9000)
			kept = append(kept, 2000)
			closeJournal(t, j)
			j, records := open(t, fsys, opt)
			wantTags(t, records, kept...)
			closeJournal(t, j)
		})
	}
}

// Everything that was to stand behind a failed batch fails with it, and what comes later takes its place.
func TestDiskFullFailsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS()
		j, _ := open(t, fsys, small())
		mustPut(t, j, 1, 1, 100)
		results := make(chan error, 100)
		note := func(_ journal.Ref, err error) { results <- err }
		var once sync.Once
		fsys.SetHook(func(op crashfs.Op) error {
			if op.Kind != crashfs.Write {
				return nil
			}
			var err error
			once.Do(func() { err = syscall.ENOSPC })
			return err
		})
		for tag := uint64(2); tag < 40; tag++ {
			if _, err := j.Append(journal.Entry{Group: 1, Set: 1, Tag: tag, Parts: [][]byte{payload(tag, 4000)}}, note); err != nil {
				t.Fatal(err)
			}
		}
		good := 0
		for range 38 {
			if err := <-results; err == nil {
				good++
			}
		}
		if good == 38 || j.Err() != nil {
			t.Errorf("%d of 38 appends went well, state %v", good, j.Err())
		}
		fsys.SetHook(nil)
		mustPut(t, j, 1, 100, 100)
		closeJournal(t, j)
		j, records := open(t, fsys, small())
		if len(records) < good+2 || records[0].Tag != 1 || records[len(records)-1].Tag != 100 {
			t.Errorf("replayed %d records, %d were durable", len(records), good+2)
		}
		closeJournal(t, j)
	})
}

func TestFailedFlushIsFinal(t *testing.T) {
	for _, cause := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		for _, power := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v,power=%v", cause, power), func(t *testing.T) {
				fsys := newFS()
				j, _ := open(t, fsys, small())
				mustPut(t, j, 1, 1, 1000)
				var failed atomic.Bool
				fsys.SetHook(func(op crashfs.Op) error {
					if op.Kind == crashfs.Sync && failed.CompareAndSwap(false, true) {
						return cause
					}
					return nil
				})
				_, err := put(j, 1, 2, 1000)
				wantErr(t, err, journal.ErrLost)
				wantErr(t, err, cause)
				_, err = put(j, 1, 3, 1000)
				wantErr(t, err, journal.ErrLost)
				wantErr(t, j.Err(), journal.ErrLost)
				wantErr(t, j.Close(), journal.ErrLost)
				if !power {
					// The cache shows record 2, which the disk may not have.
					fsys.Kill()
					fsys.Restart()
					_, _, err = tryOpen(fsys, small())
					wantErr(t, err, journal.ErrLost)
					return
				}
				fsys.Restart()
				j, records, err := tryOpen(fsys, small())
				if err != nil {
					wantErr(t, err, journal.ErrLost)
					return
				}
				if len(records) == 0 || records[0].Tag != 1 {
					t.Error("a durable record is missing")
				}
				closeJournal(t, j)
			})
		}
	}
}

func TestLimitAndReserve(t *testing.T) {
	fsys := newFS()
	opt := small()
	j, _ := open(t, fsys, opt)
	fill := func(urgent bool, tag uint64) (int, error) {
		for n := 0; n < 1000; n++ {
			_, err := putEntry(j, journal.Entry{Group: 1, Set: 1, Tag: tag, Urgent: urgent, Parts: [][]byte{payload(tag, 20000)}})
			if err != nil {
				return n, err
			}
		}
		return 0, nil
	}
	n, err := fill(false, 1)
	wantErr(t, err, journal.ErrFull)
	used, limit, reserve := j.Usage()
	if n == 0 || used != limit-reserve || limit != opt.Limit || reserve != opt.Reserve {
		t.Errorf("%d records, used %d of limit %d, reserve %d", n, used, limit, reserve)
	}
	m, err := fill(true, 2)
	wantErr(t, err, journal.ErrFull)
	if used, _, _ := j.Usage(); m == 0 || used != limit {
		t.Errorf("%d urgent records, used %d of limit %d", m, used, limit)
	}
	_, err = put(j, 1, 3, 1)
	wantErr(t, err, journal.ErrFull)
	_, err = put(j, 1, 3, 1<<20)
	wantErr(t, err, journal.ErrTooLarge)
	closeJournal(t, j)
	j, records := open(t, fsys, opt)
	if len(records) != n+m {
		t.Errorf("replayed %d records, want %d", len(records), n+m)
	}
	_, err = put(j, 1, 3, 1)
	wantErr(t, err, journal.ErrFull)
	closeJournal(t, j)
}

func TestOptionsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*journal.Options){
		"dir":      func(o *journal.Options) { o.Dir = "" },
		"segment":  func(o *journal.Options) { o.SegmentSize = 5000 },
		"limit":    func(o *journal.Options) { o.Limit = o.Reserve },
		"too many": func(o *journal.Options) { o.Limit = 1 << 40 },
		"pending":  func(o *journal.Options) { o.MaxPending = 1 },
		"interval": func(o *journal.Options) { o.FlushInterval = time.Second },
		"mark":     func(o *journal.Options) { o.MarkDelay = time.Minute },
	} {
		opt := small()
		change(&opt)
		if _, _, err := tryOpen(newFS(), opt); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The largest frame of the wire must fit in a journal that was configured by default.
func TestLargestRecord(t *testing.T) {
	fsys := newFS()
	for _, opt := range []journal.Options{small(), {Dir: dir + "/default", Limit: 1 << 30}} {
		j, _ := open(t, fsys, opt)
		n := j.MaxRecord()
		if opt.SegmentSize == 0 && n < wire.MaxBodyLength+4096 {
			t.Errorf("records of %d bytes at most, the wire has bodies of %d", n, wire.MaxBodyLength)
		}
		for tag := range uint64(3) {
			mustPut(t, j, 1, tag, n)
		}
		_, err := put(j, 1, 3, n+1)
		wantErr(t, err, journal.ErrTooLarge)
		closeJournal(t, j)
		j, records := open(t, fsys, opt)
		wantTags(t, records, 0, 1, 2)
		closeJournal(t, j)
	}
}

func TestClosed(t *testing.T) {
	j, _ := open(t, newFS(), small())
	ref := mustPut(t, j, 1, 1, 10)
	closeJournal(t, j)
	closeJournal(t, j)
	_, err := put(j, 1, 2, 10)
	wantErr(t, err, journal.ErrClosed)
	_, err = j.Read(ref, nil)
	wantErr(t, err, journal.ErrClosed)
}
