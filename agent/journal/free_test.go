package journal_test

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"

	"flotilla/agent/journal"
	"flotilla/agent/vfs"
	"flotilla/agent/vfs/crashfs"
	"flotilla/wire"
)

// fillSets appends one record a set, of group 1, until the journal is full, and returns the last set.
func fillSets(t *testing.T, j *journal.Journal, from wire.Set, urgent bool) wire.Set {
	t.Helper()
	for set := from; set < from+10000; set++ {
		e := journal.Entry{Group: 1, Set: set, Tag: uint64(set), Urgent: urgent, Parts: [][]byte{payload(uint64(set), 20000)}}
		if _, err := putEntry(j, e); err != nil {
			wantErr(t, err, journal.ErrFull)
			return set - 1
		}
	}
	t.Fatal("the journal is never full")
	return 0
}

func TestFreeGivesSpaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS()
		j, _ := open(t, fsys, small())
		set := wire.Set(0)
		for round := range 20 {
			last := fillSets(t, j, set+1, false)
			if round > 0 && last < set+10 {
				t.Fatalf("round %d: only %d records fitted", round, last-set)
			}
			set = last
			j.Free(1, set-1)
			synctest.Wait()
			if n := len(segments(t, fsys)); n > 2 {
				t.Fatalf("round %d: %d segments hold one record", round, n)
			}
		}
		if s := j.Stats(); s.Live == 0 || s.Used > 2*small().SegmentSize {
			t.Errorf("stats %+v", s)
		}
		closeJournal(t, j)
		j, records := open(t, fsys, small())
		if len(records) == 0 || records[len(records)-1].Set != set {
			t.Errorf("the last record is missing")
		}
		closeJournal(t, j)
	})
}

// Each Free is alone and nothing is appended between: the journal must find room to record what is gone, even when
// the reserve is used up.
func TestFreeOneByOneFromAFullJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS()
		opt := small()
		opt.Limit, opt.Reserve = 4<<20, 3<<20
		j, _ := open(t, fsys, opt)
		last := fillSets(t, j, fillSets(t, j, 1, false)+1, true)
		for { // To the last block that a record can have.
			e := journal.Entry{Group: 1, Set: last + 1, Urgent: true, Parts: [][]byte{payload(1, 10)}}
			if _, err := putEntry(j, e); err != nil {
				wantErr(t, err, journal.ErrFull)
				break
			}
			last++
		}
		for set := wire.Set(1); set <= last; set++ {
			j.Free(1, set)
			synctest.Wait()
		}
		if used, _, _ := j.Usage(); used > 2*opt.SegmentSize {
			t.Errorf("%d bytes are used after everything was freed", used)
		}
		mustPut(t, j, last+1, 1, 100)
		closeJournal(t, j)
		j, _ = open(t, fsys, opt)
		closeJournal(t, j)
	})
}

func TestOneRecordPinsItsSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS()
		j, _ := open(t, fsys, small())
		ref, err := putEntry(j, journal.Entry{Group: 2, Set: 1, Tag: 7, Parts: [][]byte{payload(7, 50)}})
		if err != nil {
			t.Fatal(err)
		}
		last := fillSets(t, j, 1, false)
		j.Free(1, last)
		synctest.Wait()
		if got, err := j.Read(ref, nil); err != nil || !bytes.Equal(got, payload(7, 50)) {
			t.Errorf("read the pinned record: %v", err)
		}
		closeJournal(t, j)
		j, records := open(t, fsys, small())
		if !slices.ContainsFunc(records, func(r journal.Record) bool { return r.Group == 2 && r.Tag == 7 }) {
			t.Error("the pinned record is gone")
		}
		j.Free(1, last)
		j.Free(2, 1)
		synctest.Wait()
		_, err = j.Read(ref, nil)
		wantErr(t, err, journal.ErrFreed)
		if n := len(segments(t, fsys)); n != 1 {
			t.Errorf("%d segments, want the one that is written to", n)
		}
		closeJournal(t, j)
	})
}

// A segment that is used again holds records of its former life, whole and with valid payload checksums.
func TestOldRecordsOfARecycledSegmentStayDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS()
		opt := small()
		opt.Spares = 4
		j, _ := open(t, fsys, opt)
		last := fillSets(t, j, 1, false)
		j.Free(1, last)
		synctest.Wait()
		recycled := 0
		fsys.SetHook(func(op crashfs.Op) error {
			if op.Kind == crashfs.Rename && bytes.HasSuffix([]byte(op.Name), []byte(".spare")) {
				recycled++
			}
			return nil
		})
		again := fillSets(t, j, last+1, false)
		j.Free(1, again)
		synctest.Wait()
		mustPut(t, j, again+1, uint64(again+1), 20000)
		mustPut(t, j, again+2, uint64(again+2), 20000)
		if recycled == 0 {
			t.Fatal("no segment was used again")
		}
		fsys.SetHook(nil)
		fsys.PowerCut()
		if err := j.Close(); err == nil {
			t.Log("close needed no disk")
		}
		fsys.Restart()
		j, records := open(t, fsys, opt)
		if len(records) < 2 || records[len(records)-1].Set != again+2 {
			t.Fatalf("replayed %d records", len(records))
		}
		for _, r := range records {
			if r.Set <= last {
				t.Errorf("set %d, freed in a former life of its segment, was replayed", r.Set)
			}
		}
		closeJournal(t, j)
	})
}

// slowReadFS makes ReadAt wait at the gate.
type slowReadFS struct {
	vfs.FS
	gate *gate
}

type slowReadFile struct {
	vfs.File
	gate *gate
}

func (f slowReadFS) Create(name string) (vfs.File, error) {
	file, err := f.FS.Create(name)
	return slowReadFile{file, f.gate}, err
}

func (f slowReadFile) ReadAt(p []byte, off int64) (int, error) {
	if f.gate.closed.Load() {
		<-f.gate.open
	}
	return f.File.ReadAt(p, off)
}

// A segment that is freed while it is being read stays until the reader is done; a journal that is closed likewise.
func TestReaderKeepsItsSegment(t *testing.T) {
	for _, closing := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			fsys := newFS()
			g := &gate{open: make(chan struct{})}
			j, _ := open(t, slowReadFS{fsys, g}, small())
			ref := mustPut(t, j, 1, 1, 20000)
			last := fillSets(t, j, 2, false)
			g.closed.Store(true)
			type answer struct {
				data []byte
				err  error
			}
			read := make(chan answer, 1)
			go func() {
				data, err := j.Read(ref, nil)
				read <- answer{data, err}
			}()
			synctest.Wait()
			j.Free(1, last)
			synctest.Wait()
			if !slices.Contains(segments(t, fsys), segmentFile(ref.Segment)) {
				t.Error("a segment was taken away under a reader")
			}
			if closing {
				closeJournal(t, j)
			}
			close(g.open)
			if a := <-read; a.err != nil || !bytes.Equal(a.data, payload(1, 20000)) {
				t.Errorf("read %d bytes, %v", len(a.data), a.err)
			}
			synctest.Wait()
			if n := len(segments(t, fsys)); !closing && n != 1 {
				t.Errorf("%d segments are left", n)
			}
			closeJournal(t, j)
		})
	}
}
