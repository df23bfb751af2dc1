package nbd

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"flotilla/nbd/internal/proto"
)

const (
	inputSize    = 256 << 10 // bytes of requests taken in with one call
	inputGlance  = 4 << 10   // read-ahead while large payloads come
	directLength = 16 << 10  // payloads from this size on are read into place
)

// input takes requests off the stream: many small ones with one system call,
// and the data of large ones straight into their buffer, with a glance at what
// follows in the same call. What is glanced at has to be copied, so the glance
// is short while large payloads follow each other.
type input struct {
	s     *stream
	buf   []byte
	r, w  int // buf[r:w] has been read and not yet consumed
	ahead int // bytes to read beyond what is needed

	// begun is when the wait for the rest of a request began, in nanoseconds
	// since epoch, or 0. A watchdog looks at it, as deadlines on the socket
	// would cost two changes of a timer for every large request.
	begun atomic.Int64
	epoch time.Time

	// parked says that nothing beyond the request under way is to be read; set before the stream's reads are stopped.
	parked  atomic.Bool
	resumed bool // a stop in the middle of a request was passed over
}

func newInput(s *stream) *input {
	return &input{s: s, buf: make([]byte, inputSize), ahead: inputSize, epoch: time.Now()}
}

// overdue reports whether the rest of a request has been waited for longer
// than limit. Any goroutine may ask.
func (in *input) overdue(limit time.Duration) bool {
	begun := in.begun.Load()
	return begun != 0 && time.Since(in.epoch)-time.Duration(begun) > limit
}

// begin notes that a request has begun and its rest is waited for: it holds
// memory meanwhile.
func (in *input) begin() { in.begun.Store(max(1, int64(time.Since(in.epoch)))) }

// end notes that the rest has come, or never will.
func (in *input) end() { in.begun.Store(0) }

// ready reports whether a whole request header is here.
func (in *input) ready() bool { return in.w-in.r >= proto.RequestSize }

// header returns the next request header, valid until the next call. It
// returns io.EOF when the stream ends between two requests.
func (in *input) header() ([]byte, error) {
	if !in.ready() {
		if err := in.fill(proto.RequestSize); err != nil {
			return nil, err
		}
	}
	h := in.buf[in.r : in.r+proto.RequestSize]
	in.r += proto.RequestSize
	return h, nil
}

// fill reads until n bytes are buffered.
func (in *input) fill(n int) error {
	copy(in.buf, in.buf[in.r:in.w])
	in.r, in.w = 0, in.w-in.r
	defer in.end()
	for in.w < n {
		if in.w > 0 && in.begun.Load() == 0 {
			in.begin()
		}
		end := min(len(in.buf), max(n, in.glance()))
		got, err := in.read(in.buf[in.w:end], nil, in.w > 0)
		if err != nil {
			return in.cut(err, in.w > 0)
		}
		in.w += got
	}
	return nil
}

// payload fills dst with the data that follow the header just read.
func (in *input) payload(dst []byte) error {
	n := copy(dst, in.buf[in.r:in.w])
	in.r += n
	if len(dst) >= directLength {
		in.ahead = inputGlance
	} else {
		in.ahead = inputSize
	}
	if n == len(dst) {
		return nil
	}
	in.r, in.w = 0, 0 // the buffer is empty: all of it can take the glance
	in.begin()
	defer in.end()
	for n < len(dst) {
		got, err := in.read(dst[n:], in.buf[:in.glance()], true)
		if err != nil {
			return in.cut(err, true)
		}
		if rest := len(dst) - n; got > rest {
			in.w, got = got-rest, rest
		}
		n += got
	}
	return nil
}

// discard drops the n bytes of data that follow the header just read.
func (in *input) discard(n int64) error {
	in.begin()
	defer in.end()
	for {
		k := min(n, int64(in.w-in.r))
		in.r += int(k)
		if n -= k; n == 0 {
			return nil
		}
		in.r, in.w = 0, 0
		got, err := in.read(in.buf[:min(n, int64(len(in.buf)))], nil, true)
		if err != nil {
			return in.cut(err, true)
		}
		in.w = got
	}
}

// empty reports whether everything that was read has been consumed.
func (in *input) empty() bool { return in.r == in.w }

// glance is how much may be read beyond what is needed.
func (in *input) glance() int {
	if in.parked.Load() {
		return 0
	}
	return in.ahead
}

// read reads from the stream. Where reads were stopped because the connection is parked, the rest of a request that has
// begun is read all the same, once: the peer is sending it.
func (in *input) read(first, second []byte, inside bool) (int, error) {
	got, err := in.s.readv(first, second)
	if !inside || in.resumed || !in.parked.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
		return got, err
	}
	in.resumed = true
	if err := in.s.nc.SetReadDeadline(time.Time{}); err != nil {
		return 0, err
	}
	if len(second) > 0 {
		second = second[:0]
	}
	return in.s.readv(first, second)
}

// cut tells an end between requests from one in the middle of a request.
func (in *input) cut(err error, inside bool) error {
	if err == io.EOF && inside {
		return io.ErrUnexpectedEOF
	}
	return err
}
