package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
)

// The power cuts: rounds by default, the source's size, and how many extents of 1 MiB the activity log keeps hot at most
// (ARCHITECTURE, Limits). What was written in the last seconds may be marked besides: it was not applied yet.
const (
	cutRounds  = 4
	cutSize    = 1280 << 20
	cutHottest = 1024 + 1024/8
	cutTouched = cutHottest + 90
	cutApplied = 6 * time.Second
)

// powerCuts kills the primary again and again under a load, and has its disks, the source and that of the state directory, lose
// power: of what was not flushed a part is there afterwards, chosen write by write (logwrites.go). In every fourth round the
// agent is only killed. In every tenth more extents are written before than stay hot. After each the source has what was flushed, the resync copies what the bits say and nothing else,
// and the target becomes what the source is.
func powerCuts(ctx context.Context, m *machine) error {
	for _, name := range []string{"dm-mod", "dm-log-writes"} {
		if err := m.load(name, ""); err != nil {
			return err
		}
	}
	if len(m.disks) < 6 {
		return fmt.Errorf("six disks are needed, there are %d", len(m.disks))
	}
	c := newCluster(ctx, m)
	x := &cuts{
		cluster: c,
		source:  &lossy{"source", m.disks[0], m.disks[1], m.disks[2]},
		state:   &lossy{"state", m.disks[3], m.disks[4], m.disks[5]},
		load:    newCutLoad(cutSize, 1),
		rand:    rand.New(rand.NewPCG(2, 2)),
	}
	return c.end(x.all())
}

type cuts struct {
	*cluster
	source, state *lossy
	load          *cutLoad
	rand          *rand.Rand
}

func (x *cuts) all() error {
	if err := x.begin(); err != nil {
		return err
	}
	rounds := x.rounds
	if rounds == 0 {
		rounds = cutRounds
	}
	var copied []int64
	var took []time.Duration
	var lost, survived int
	for i := 1; i <= rounds; i++ {
		began := time.Now()
		n, t, err := x.round(i)
		if err != nil {
			return fmt.Errorf("round %d of %d: %w", i, rounds, err)
		}
		lost, survived = lost+t.lost, survived+t.survived
		copied, took = append(copied, n), append(took, time.Since(began))
	}
	slices.Sort(copied)
	slices.Sort(took)
	say("%d rounds: resyncs copied %d MiB in the median, %d at most, of %d; %d writes that were not flushed were lost, %d survived; a round took %v in the median",
		rounds, copied[rounds/2]>>20, copied[rounds-1]>>20, cutSize>>20, lost, survived, took[rounds/2].Round(time.Millisecond))
	if lost == 0 {
		return errors.New("no write was lost: the cuts have proved nothing")
	}
	return errors.Join(x.killAll(), x.sh("umount", filepath.Join(x.dir, "p")), x.source.off(), x.state.off(), noErrors())
}

// begin puts the primary on its disks.
func (x *cuts) begin() error {
	if err := x.sh("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", x.state.live); err != nil {
		return err
	}
	if err := copyDevice(x.state.shadow, x.state.live); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(x.dir, "p"), 0o755); err != nil {
		return err
	}
	if err := errors.Join(x.powerOn(), sparseFile(x.target, cutSize), x.addPair()); err != nil {
		return err
	}
	if err := x.fleet.Assemble(x.ctx, func(*fleet.Host) {}); err != nil {
		return err
	}
	if err := x.insist("group", "create", group); err != nil {
		return err
	}
	if err := x.insist("volume", "create", volume, "--primary", "p", "--source", x.source.path(), "--secondary", "s", "--target", x.target,
		"--size", fmt.Sprint(int64(cutSize))); err != nil {
		return err
	}
	if err := x.settled(group); err != nil {
		return err
	}
	say("the first copy is whole")
	return nil
}

// heat has more extents written than stay hot.
func (x *cuts) heat() error {
	d, err := x.primary.Dial(x.ctx, volume)
	if err != nil {
		return err
	}
	return errors.Join(x.load.touch(x.ctx, d, cutTouched), d.Close(), x.settled(group))
}

func (x *cuts) powerOn() error {
	return errors.Join(x.source.on(), x.state.on(), x.sh("mount", x.state.path(), filepath.Join(x.dir, "p")))
}

// round lets the load run, cuts, and looks at what comes of it. It returns how many bytes were copied.
func (x *cuts) round(i int) (copied int64, t tally, err error) {
	onlyKilled := i%4 == 0
	if i%10 == 1 {
		if err := x.heat(); err != nil {
			return 0, t, err
		}
	}
	d, err := x.primary.Dial(x.ctx, volume)
	if err != nil {
		return 0, t, err
	}
	before := x.load.writes
	var when time.Time
	err = x.load.run(x.ctx, d, time.Second+time.Duration(x.rand.Int64N(int64(time.Second))), func() error {
		if err := x.primary.Kill(); err != nil {
			return err
		}
		when = time.Now()
		if onlyKilled {
			return nil
		}
		return errors.Join(x.source.cut(), x.state.cut())
	})
	_ = d.Close() // its server is dead
	if err != nil {
		return 0, t, err
	}
	if !onlyKilled {
		if t, err = x.loseWhatWasNotFlushed(); err != nil {
			return 0, t, err
		}
	}
	older, err := x.load.verify(x.source.path())
	if err != nil {
		return 0, t, err
	}
	marked, err := markedExtents(x.primary.Dir, cutSize/cutExtent)
	if err != nil {
		return 0, t, err
	}
	hot, recent := cutHottest, x.load.recent(cutApplied, when)
	if err := x.fleet.Start(x.ctx, x.primary); err != nil {
		return 0, t, err
	}
	if copied, err = x.resynced(); err != nil {
		return 0, t, err
	}
	say("round %d (killed only: %v): %d writes; unflushed: %d lost, %d survived; %d blocks went back; %d extents marked (limit %d hot and %d in flight), %d MiB copied",
		i, onlyKilled, x.load.writes-before, t.lost, t.survived, older, marked, hot, recent, copied>>20)
	switch {
	case copied != int64(marked)*cutExtent:
		return 0, t, fmt.Errorf("%d bytes were copied, and the bits say %d", copied, int64(marked)*cutExtent)
	case marked > hot+recent:
		return 0, t, fmt.Errorf("%d extents were marked: want at most %d hot ones and the %d written last", marked, hot, recent)
	}
	return copied, t, errors.Join(x.settled(group), same(x.source.path(), x.target, cutSize))
}

// loseWhatWasNotFlushed does to the disks of the dead primary what a power cut does, and switches them on again.
func (x *cuts) loseWhatWasNotFlushed() (t tally, err error) {
	at := filepath.Join(x.dir, "p")
	if err := errors.Join(x.sh("umount", at), x.source.off(), x.state.off()); err != nil {
		return t, err
	}
	for _, d := range []*lossy{x.source, x.state} {
		one, err := d.settle(x.rand)
		if err != nil {
			return t, err
		}
		t.lost, t.survived, t.writes, t.flushed = t.lost+one.lost, t.survived+one.survived, t.writes+one.writes, t.flushed+one.flushed
	}
	return t, x.powerOn()
}

// resynced waits until the restarted primary's resync is whole, and returns how much it has copied.
func (c *cluster) resynced() (copied int64, err error) {
	err = c.until(c.ctx, "the resync is whole", func() (bool, error) {
		page, err := c.primary.API.Events(c.ctx, 0, 0)
		if err != nil {
			return false, fleet.IgnoreUnreached(err)
		}
		copied, err = copiedBytes(page)
		return copied > 0, err
	})
	return copied, err
}

// copiedBytes returns what the resync that an agent tells of has copied, 0 when it is not whole yet.
func copiedBytes(page *api.EventPage) (int64, error) {
	for _, e := range page.Events {
		if e.Name != "copy.whole" {
			continue
		}
		n, ok := e.Attrs["bytes"].(float64)
		if kind := e.Attrs["kind"]; !ok || kind != "resync" {
			return 0, fmt.Errorf("the agent tells of a copy %v", e.Attrs)
		}
		return int64(n), nil
	}
	return 0, nil
}
