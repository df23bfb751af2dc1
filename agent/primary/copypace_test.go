package primary

import (
	"testing"
	"time"

	"flotilla/wire"
)

// paceWorld is a copier, an application and a link that carries bytes in their order, step by step.
type paceWorld struct {
	p        copyPace
	now      time.Duration
	link     int64         // bytes a second
	far      time.Duration // from sent to held, beside the queue
	app      int64         // bytes a second that the application writes
	piece    time.Duration // that reading a piece takes
	busy     bool          // the application reads, too
	queue    []paced       // not yet held
	seq      wire.Seq
	sent     time.Duration // until when the link is taken
	copied   int64
	appOwes  int64
	appHeld  int64
	appDelay time.Duration // the longest that an update of the application waited
	readTo   time.Duration // the copier reads until then
}

type paced struct {
	seq    wire.Seq
	bytes  int64
	at     time.Duration
	heldAt time.Duration
	app    bool
}

func (w *paceWorld) put(n int64, app bool) {
	w.seq++
	w.sent = max(w.sent, w.now) + perSecond(n, w.link)
	w.queue = append(w.queue, paced{w.seq, n, w.now, w.sent + w.far, app})
}

func (w *paceWorld) load() (n int64) {
	for i := range w.queue {
		n += w.queue[i].bytes
	}
	return n
}

// run goes on for a time in steps of a millisecond.
func (w *paceWorld) run(d time.Duration) {
	const step = time.Millisecond
	for end := w.now + d; w.now < end; w.now += step {
		for len(w.queue) > 0 && w.queue[0].heldAt <= w.now {
			if q := w.queue[0]; q.app {
				w.appHeld += q.bytes
				w.appDelay = max(w.appDelay, w.now-q.at)
			}
			w.p.held(w.now, w.queue[0].seq)
			w.queue = w.queue[1:]
		}
		w.appOwes += w.app / 1000
		for ; w.appOwes >= 64<<10 && w.load() < 64<<20; w.appOwes -= 64 << 10 {
			w.put(64<<10, true)
		}
		w.appOwes = min(w.appOwes, 64<<10)
		for w.now >= w.readTo {
			if wait, _ := w.p.turn(w.now, w.load(), copyPiece); wait > 0 {
				break
			}
			w.p.goes(w.now, copyPiece)
			w.readTo = w.now + w.piece
			w.put(copyPiece, false)
			w.copied += copyPiece
			w.p.numbered(w.now, w.seq)
			w.p.took(w.readTo, w.piece, w.busy || w.app > 0)
		}
	}
}

func newPaceWorld(t *testing.T, link int64) *paceWorld {
	t.Helper()
	l, err := Limits{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return &paceWorld{p: newCopyPace(&l), link: link, far: 5 * time.Millisecond, piece: time.Millisecond}
}

// rates lets the start pass, and returns what a second of the copy and of the application brings.
func (w *paceWorld) rates() (copied, app int64) {
	w.run(10 * time.Second)
	w.copied, w.appHeld, w.appDelay = 0, 0, 0
	w.run(20 * time.Second)
	return w.copied / 20, w.appHeld / 20
}

func TestPaceFillsAnIdleLink(t *testing.T) {
	for _, c := range []struct {
		name string
		link int64
		far  time.Duration
	}{{"lan", 400 << 20, time.Millisecond}, {"100 Mbit/s", 12 << 20, 10 * time.Millisecond}, {"far", 100 << 20, 150 * time.Millisecond}} {
		w := newPaceWorld(t, c.link)
		w.far = c.far
		if copied, _ := w.rates(); copied < c.link*9/10 {
			t.Errorf("%s: copied at %d of %d bytes a second", c.name, copied, c.link)
		}
		if d := time.Duration(float64(w.load()) / float64(c.link) * float64(time.Second)); d > 400*time.Millisecond {
			t.Errorf("%s: %d bytes wait, for %v", c.name, w.load(), d)
		}
	}
}

// An application that fits the link has it; the copy takes what is left, and what the application waits for is short.
func TestPaceYieldsTheLink(t *testing.T) {
	w := newPaceWorld(t, 40<<20)
	w.app = 30 << 20
	copied, app := w.rates()
	if app < 29<<20 {
		t.Errorf("the application has %d bytes a second of the %d that it wants", app, w.app)
	}
	if copied < 2<<20 || copied > 11<<20 {
		t.Errorf("copied at %d bytes a second of the 10 MiB that are left", copied)
	}
	if w.appDelay > 200*time.Millisecond {
		t.Errorf("an update waited for %v", w.appDelay)
	}
}

// One that would fill the link alone leaves the copy its minimum, and no more.
func TestPaceMinimum(t *testing.T) {
	w := newPaceWorld(t, 20<<20)
	w.app = 40 << 20
	copied, app := w.rates()
	if copied < 900<<10 || copied > 3<<20 {
		t.Errorf("copied at %d bytes a second, want about the minimum of %d", copied, w.p.least)
	}
	if app < 16<<20 {
		t.Errorf("the application has %d bytes a second", app)
	}
}

// Beside one that is busy with the source alone the copier works a fifth of the time.
func TestPaceRestsBesideReaders(t *testing.T) {
	idle := newPaceWorld(t, 1<<40)
	alone, _ := idle.rates()
	w := newPaceWorld(t, 1<<40)
	w.busy = true
	copied, _ := w.rates()
	if copied < alone/8 || copied > alone/4 {
		t.Errorf("copied at %d bytes a second, and at %d beside nobody", copied, alone)
	}
}

func TestPaceCeiling(t *testing.T) {
	w := newPaceWorld(t, 400<<20)
	w.p.most = 10 << 20
	if copied, _ := w.rates(); copied < 95<<20/10 || copied > 105<<20/10 {
		t.Errorf("copied at %d bytes a second, want 10 MiB", copied)
	}
	w = newPaceWorld(t, 400<<20)
	w.p.most = 256 << 10 // below the minimum
	if copied, _ := w.rates(); copied > 320<<10 {
		t.Errorf("copied at %d bytes a second, want 256 KiB", copied)
	}
}

// While nothing is held the copier stops at a bound, at which the application's writes are not delayed much.
func TestPaceStopsOnADeadLink(t *testing.T) {
	w := newPaceWorld(t, 1)
	w.run(10 * time.Minute)
	if w.load() > w.p.limit {
		t.Errorf("%d bytes wait on a link that is dead", w.load())
	}
}

func TestAverage(t *testing.T) {
	r := average{since: time.Second, last: time.Second}
	for i := range 200 {
		r.add(time.Second+time.Duration(i+1)*50*time.Millisecond, 1000)
	}
	at := 11 * time.Second
	if got := r.at(at); got < 19000 || got > 21000 {
		t.Errorf("a thousand each 50 ms is a rate of %f", got)
	}
	if got := r.at(at + 30*time.Second); got > 100 {
		t.Errorf("after 30 s of nothing the rate is %f", got)
	}
	early := average{since: time.Second, last: time.Second}
	early.add(1100*time.Millisecond, 1000)
	if got := early.at(1100 * time.Millisecond); got < 9000 || got > 11000 {
		t.Errorf("a thousand in the first 100 ms is a rate of %f", got)
	}
}
