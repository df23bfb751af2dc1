package faulty_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"

	"flotilla/blockdev"
	"flotilla/blockdev/blockdevtest"
	"flotilla/blockdev/faulty"

	"golang.org/x/sys/unix"
)

func newDevice(t *testing.T) *faulty.Device {
	d := faulty.New(blockdev.NewMemory(1 << 20))
	t.Cleanup(func() {
		d.Heal()
		if err := d.Close(); err != nil && !errors.Is(err, blockdev.ErrClosed) {
			t.Error(err)
		}
	})
	return d
}

// call does one call of the operation.
func call(d *faulty.Device, op faulty.Op, off, length int64) error {
	var err error
	switch op {
	case faulty.Read:
		_, err = d.ReadAt(make([]byte, length), off)
	case faulty.Write:
		_, err = d.WriteAt(make([]byte, length), off)
	case faulty.Flush:
		err = d.Flush()
	case faulty.Trim:
		err = d.Trim(off, length)
	case faulty.WriteZeroes:
		err = d.WriteZeroes(off, length, true)
	case faulty.Extents:
		for _, err = range d.Extents(off, length) {
			break
		}
	case faulty.Close:
		err = d.Close()
	}
	return err
}

var ops = []faulty.Op{faulty.Read, faulty.Write, faulty.Flush, faulty.Trim, faulty.WriteZeroes, faulty.Extents, faulty.Close}

func TestSuite(t *testing.T) {
	blockdevtest.Run(t, func(testing.TB) blockdev.Device { return faulty.New(blockdev.NewMemory(1<<20 + 77)) })
}

func TestEachOperationByName(t *testing.T) {
	for _, op := range ops {
		named, err := faulty.ParseOp(op.String())
		if err != nil || named != op {
			t.Errorf("%v parses as %v, %v", op, named, err)
		}
		d := newDevice(t)
		d.Inject(faulty.Fault{Op: named, Err: unix.ENOSPC})
		for _, other := range ops {
			err := call(d, other, 0, 512)
			if want := other == op; errors.Is(err, unix.ENOSPC) != want || !want && err != nil {
				t.Errorf("fault of %v: %v returned %v", op, other, err)
			}
			if d.Calls(other) != 1 {
				t.Errorf("%v was counted %d times", other, d.Calls(other))
			}
		}
	}
	if _, err := faulty.ParseOp("erase"); err == nil {
		t.Error("unknown operation was parsed")
	}
}

func TestNthAndTimes(t *testing.T) {
	for _, c := range []struct {
		nth, times int
		want       string // one letter a call: f fails
	}{{0, 0, "f....."}, {1, 1, "f....."}, {3, 0, "..f..."}, {2, 3, ".fff.."}, {4, -1, "...fff"}} {
		d := newDevice(t)
		d.Inject(faulty.Fault{Op: faulty.Write, Nth: c.nth, Times: c.times})
		got := ""
		for range c.want {
			if err := call(d, faulty.Read, 0, 1); err != nil {
				t.Fatal(err)
			}
			switch err := call(d, faulty.Write, 0, 1); {
			case err == nil:
				got += "."
			case errors.Is(err, unix.EIO):
				got += "f"
			default:
				t.Fatal(err)
			}
		}
		if got != c.want {
			t.Errorf("nth %d, times %d: %s, want %s", c.nth, c.times, got, c.want)
		}
	}
}

func TestRangeHealAndRemove(t *testing.T) {
	d := newDevice(t)
	remove := d.Inject(faulty.Fault{Offset: 4096, Length: 512, Times: -1})
	for off, want := range map[int64]bool{4096 - 512: false, 4096 - 511: true, 4096: true, 4607: true, 4608: false, 0: false} {
		if err := call(d, faulty.Read, off, 512); (err != nil) != want {
			t.Errorf("read at %d: %v", off, err)
		}
	}
	if err := errors.Join(d.Flush(), call(d, faulty.Read, 4200, 0)); err != nil {
		t.Errorf("calls without a range: %v", err)
	}
	for range 2 {
		remove()
	}
	if err := call(d, faulty.Trim, 4096, 1); err != nil {
		t.Error(err)
	}
	d.Inject(faulty.Fault{Times: -1})
	if err := d.Flush(); !errors.Is(err, unix.EIO) {
		t.Errorf("flush of a dead device: %v", err)
	}
	d.Heal()
	if err := d.Flush(); err != nil {
		t.Error(err)
	}
}

func TestTornWrite(t *testing.T) {
	d := newDevice(t)
	d.Inject(faulty.Fault{Op: faulty.Write, Transfer: 512})
	n, err := d.WriteAt(bytes.Repeat([]byte{1}, 4096), 0)
	if n != 512 || !errors.Is(err, unix.EIO) {
		t.Errorf("torn write: %d, %v", n, err)
	}
	got := make([]byte, 4096)
	if _, err := d.ReadAt(got, 0); err != nil || bytes.Count(got, []byte{1}) != 512 || got[511] != 1 {
		t.Errorf("after a torn write: %d bytes, %v", bytes.Count(got, []byte{1}), err)
	}
}

func TestHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := faulty.New(blockdev.NewMemory(1 << 20))
		proceed := make(chan struct{})
		var seen faulty.Call
		d.Inject(faulty.Fault{Op: faulty.Write, OnlyHook: true, Hook: func(c faulty.Call) { seen = c; <-proceed }})
		done := make(chan error, 1)
		go func() { done <- call(d, faulty.Write, 512, 100) }()
		synctest.Wait()
		if len(done) != 0 {
			t.Error("the write did not hang")
		}
		if err := call(d, faulty.Read, 0, 1); err != nil {
			t.Errorf("read beside a hanging write: %v", err)
		}
		close(proceed)
		if err := <-done; err != nil || seen != (faulty.Call{Op: faulty.Write, Offset: 512, Length: 100}) {
			t.Errorf("hanging write: %v, hook saw %+v", err, seen)
		}
	})
}

func TestCloseFailsButCloses(t *testing.T) {
	d := newDevice(t)
	d.Inject(faulty.Fault{Op: faulty.Close})
	if err := d.Close(); !errors.Is(err, unix.EIO) {
		t.Errorf("close: %v", err)
	}
	if err := d.Flush(); !errors.Is(err, blockdev.ErrClosed) {
		t.Errorf("flush after a failed close: %v", err)
	}
}
