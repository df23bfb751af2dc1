package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"flotilla/agent/journal"
	"flotilla/agent/vfs/crashfs"
)

// rotten makes a journal of several segments and closes it.
func rotten(t *testing.T) (*crashfs.FS, []journal.Record) {
	t.Helper()
	fsys := newFS()
	j, _ := open(t, fsys, small())
	for tag := range uint64(14) {
		mustPut(t, j, 1, tag, []int{100, 20000, 0, 30000}[tag%4])
	}
	closeJournal(t, j)
	j, records := open(t, fsys, small())
	closeJournal(t, j)
	if n := len(segments(t, fsys)); n < 2 {
		t.Fatalf("only %d segments", n)
	}
	return fsys, records
}

// TestRotIsDetected flips a bit in every byte of every record header, in each payload, and all over the headers. After
// a clean close every record is below the durable mark.
func TestRotIsDetected(t *testing.T) {
	fsys, records := rotten(t)
	flip := func(name string, off int64, inRecord bool) {
		t.Helper()
		if err := fsys.Corrupt(name, off, 0x10); err != nil {
			t.Fatal(err)
		}
		j, found, err := tryOpen(fsys, small())
		switch {
		case errors.Is(err, journal.ErrRot), errors.Is(err, journal.ErrVersion):
		case err != nil:
			t.Fatalf("%s at %d: %v", name, off, err)
		case inRecord || !same(found, records):
			t.Fatalf("%s at %d: rot was not detected, %d of %d records replayed", name, off, len(found), len(records))
		default:
			closeJournal(t, j) // Filling, or the last mark.
		}
		if err := fsys.Corrupt(name, off, 0x10); err != nil {
			t.Fatal(err)
		}
	}
	step := int64(stride())
	for _, r := range records {
		name := segmentFile(r.Ref.Segment)
		for off := r.Ref.Offset - 40; off < r.Ref.Offset; off += step {
			flip(name, off, true)
		}
		for off := r.Ref.Offset; off < r.Ref.Offset+int64(r.Ref.Length); off += 997 * step {
			flip(name, off, true)
		}
	}
	for _, name := range segments(t, fsys) {
		for at := int64(0); at < small().SegmentSize; at += 4096 {
			for off := at; off < at+40; off += step {
				flip(name, off, at == 0)
			}
		}
	}
	j, found := open(t, fsys, small())
	if !same(found, records) {
		t.Error("the repaired journal differs")
	}
	closeJournal(t, j)
}

func same(a, b []journal.Record) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Ref != b[i].Ref || a[i].Tag != b[i].Tag || !bytes.Equal(a[i].Payload, b[i].Payload) {
			return false
		}
	}
	return true
}

func TestMissingOrShortSegmentIsRot(t *testing.T) {
	for i := range 2 {
		fsys, _ := rotten(t)
		name := segments(t, fsys)[0]
		if i == 0 {
			if err := fsys.Remove(name); err != nil {
				t.Fatal(err)
			}
		} else {
			f, err := fsys.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Truncate(30000); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := tryOpen(fsys, small())
		wantErr(t, err, journal.ErrRot)
	}
}

// Before its mark is written the last batch's rot passes for a torn tail, as the package comment says; that
// of any other does not.
func TestRotBeforeTheMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, victim := range []int{0, 1, 2} {
			for _, mark := range []bool{false, true} {
				fsys := newFS()
				j, _ := open(t, fsys, small())
				var refs []journal.Ref
				for tag := range uint64(3) {
					refs = append(refs, mustPut(t, j, 1, tag, 5000))
				}
				if mark {
					time.Sleep(small().MarkDelay + 1)
					synctest.Wait()
				}
				fsys.PowerCut()
				j.Close() //nolint:errcheck // The power is off.
				fsys.Restart()
				if err := fsys.Corrupt(segmentFile(1), refs[victim].Offset+100, 1); err != nil {
					t.Fatal(err)
				}
				j, records, err := tryOpen(fsys, small())
				if victim < 2 || mark {
					wantErr(t, err, journal.ErrRot)
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				wantTags(t, records, 0, 1)
				closeJournal(t, j)
			}
		}
	})
}

func TestReadFindsRot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS()
		j, _ := open(t, fsys, small())
		ref := mustPut(t, j, 1, 1, 5000)
		synctest.Wait()
		for _, off := range []int64{-40, -1, 0, 4999} {
			if err := fsys.Corrupt(segmentFile(ref.Segment), ref.Offset+off, 4); err != nil {
				t.Fatal(err)
			}
			_, err := j.Read(ref, nil)
			wantErr(t, err, journal.ErrRot)
			if err := fsys.Corrupt(segmentFile(ref.Segment), ref.Offset+off, 4); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := j.Read(ref, nil); err != nil {
			t.Error(err)
		}
		// A disk that wrote another record's place over this one: whole, and of the same length.
		other := mustPut(t, j, 1, 2, 5000)
		f, err := fsys.Open(segmentFile(ref.Segment))
		if err != nil {
			t.Fatal(err)
		}
		raw := make([]byte, 5040)
		if _, err := f.ReadAt(raw, other.Offset-40); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(raw, ref.Offset-40); err != nil {
			t.Fatal(err)
		}
		_, err = j.Read(ref, nil)
		wantErr(t, err, journal.ErrRot)
		_, err = j.Read(journal.Ref{Segment: ref.Segment, Offset: ref.Offset + 40960, Length: 10}, nil)
		if err == nil || errors.Is(err, journal.ErrRot) {
			t.Errorf("read where nothing was written: %v", err)
		}
		closeJournal(t, j)
	})
}

// A sector that cannot be read is not a torn tail either.
func TestReadErrorIsNoTornTail(t *testing.T) {
	fsys, records := rotten(t)
	for nth := 1; ; nth++ {
		n := 0
		fsys.SetHook(func(op crashfs.Op) error {
			if op.Kind == crashfs.Read {
				if n++; n == nth {
					return syscall.EIO
				}
			}
			return nil
		})
		j, found, err := tryOpen(fsys, small())
		if err == nil {
			if n >= nth {
				t.Errorf("read %d failed and the journal opened with %d records", nth, len(found))
			}
			if !same(found, records) {
				t.Error("records differ")
			}
			closeJournal(t, j)
			return
		}
		wantErr(t, err, syscall.EIO)
		if errors.Is(err, journal.ErrRot) {
			t.Errorf("a read error passes for rot: %v", err)
		}
	}
}

func TestReplayErrorEndsOpen(t *testing.T) {
	fsys, _ := rotten(t)
	stop := fmt.Errorf("stop")
	_, err := journal.Open(fsys, small(), func(journal.Record) error { return stop })
	wantErr(t, err, stop)
}
