package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"flotilla/internal/fio"
	"flotilla/internal/judge"
)

// row is a job on a kind of cluster, and what is aimed at.
type row struct {
	fio.Job
	cluster string  // name of a clusterKind
	aim     float64 // ratio to the peer
}

func (r row) name() string { return r.cluster + "/" + r.Job.Name() }

var allRows = []row{
	{fio.Job{RW: "randwrite", Block: "4k", Depth: 32}, alone.name, 0.8},
	{fio.Job{RW: "randwrite", Block: "64k", Depth: 16}, alone.name, 0.8},
	{fio.Job{RW: "write", Block: "1m", Depth: 4}, alone.name, 0.8},
	{fio.Job{RW: "read", Block: "1m", Depth: 4}, alone.name, 0.8},
	{fio.Job{RW: "randread", Block: "4k", Depth: 32}, alone.name, 0.8},
	{fio.Job{RW: "randwrite", Block: "4k", Depth: 32, Fresh: true}, loggedName, 0.95},
	// Fresh data, or frames would be smaller than what an application writes: fio's own buffers repeat themselves.
	{fio.Job{RW: "randwrite", Block: "4k", Depth: 32, Fresh: true}, replicated.name, 0.3},
}

func rowNames() string {
	names := make([]string, len(allRows))
	for i, r := range allRows {
		names[i] = r.name()
	}
	return strings.Join(names, ", ")
}

// pair is one run against the peer and one against the volume.
type pair struct {
	peer, own  fio.Outcome
	peerCPU    time.Duration // of nbdkit, during its run
	used       usage         // of the agents, until everything was applied
	updates    uint64        // that the stream had; 0 where there is none
	applied    float64       // requests a second, from the begin of the run until everything was applied
	drain      time.Duration // from the end of the run until everything was applied
	wholeWrite float64       // requests of the own run, ramp included
}

// measureCluster starts a cluster and the peer, measures the rows that want it, and ends both.
func measureCluster(ctx context.Context, o options, dir string, kind clusterKind, rows []row, rep *report) (err error) {
	var mine []row
	for _, r := range rows {
		if r.cluster == kind.name {
			mine = append(mine, r)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	dir = filepath.Join(dir, kind.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make a directory for the cluster: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p, err := startPeer(ctx, dir, o.size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	c, err := startAgents(ctx, o, dir, kind)
	if err != nil {
		return err
	}
	defer func() {
		if o.keepLogs {
			fmt.Fprint(os.Stderr, c.logs())
		}
		err = errors.Join(err, c.stop())
	}()
	v, err := createVolume(ctx, c, o.size)
	if err != nil {
		return err
	}
	idle, err := measureIdle(ctx, c)
	if err != nil {
		return err
	}
	for _, r := range mine {
		pairs, err := measureRow(ctx, o, r, p, v)
		if err != nil {
			return fmt.Errorf("row %s: %w", r.name(), err)
		}
		rep.row(r, c.parts(), pairs)
		if o.profiles != "" {
			if err := profile(ctx, o, v, r.Job); err != nil {
				return err
			}
		}
	}
	return rep.cluster(c, idle)
}

// idleTime is how long idle agents are watched.
const idleTime = 2 * time.Second

// measureIdle returns the part of a processor that all agents together use while nobody writes.
func measureIdle(ctx context.Context, c *agents) (float64, error) {
	before, err := c.usage()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	select {
	case <-time.After(idleTime):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := c.usage()
	if err != nil {
		return 0, err
	}
	return after.minus(before).total().Seconds() / time.Since(began).Seconds(), nil
}

// measureRow runs the pairs.
func measureRow(ctx context.Context, o options, r row, p *peer, v *volume) ([]pair, error) {
	var pairs []pair
	for i := range o.pairs {
		var x pair
		steps := []func() error{
			func() error { return x.runPeer(ctx, o, r.Job, p) },
			func() error { return x.runOwn(ctx, o, r.Job, v) },
		}
		if i%2 == 1 {
			slices.Reverse(steps)
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return nil, err
			}
		}
		pairs = append(pairs, x)
	}
	return pairs, nil
}

func (x *pair) runPeer(ctx context.Context, o options, j fio.Job, p *peer) (err error) {
	before, err := p.cpu()
	if err != nil {
		return err
	}
	if x.peer, err = runFio(ctx, o, j, p.uri); err != nil {
		return err
	}
	after, err := p.cpu()
	x.peerCPU = after - before
	return err
}

// runOwn runs the job against the volume, waits until everything is applied, and compares.
func (x *pair) runOwn(ctx context.Context, o options, j fio.Job, v *volume) (err error) {
	var from, to position
	if v.replicated() {
		if from, err = v.settle(ctx, time.Now()); err != nil {
			return err
		}
	}
	before, err := v.cluster.usage()
	if err != nil {
		return err
	}
	began := time.Now()
	if x.own, err = runFio(ctx, o, j, v.uri); err != nil {
		return err
	}
	end := time.Now()
	if v.replicated() {
		if to, err = v.settle(ctx, end); err != nil {
			return err
		}
	}
	after, err := v.cluster.usage()
	if err != nil {
		return err
	}
	x.used = after.minus(before)
	x.wholeWrite = x.own.IOPS * (o.ramp + o.runtime).Seconds()
	if !v.replicated() {
		return nil
	}
	if to.incarnation != from.incarnation {
		return fmt.Errorf("the group was suspended during the run: incarnation %d, before it %d\n%s", to.incarnation, from.incarnation, v.cluster.logs())
	}
	x.updates = to.seq - from.seq
	x.applied = float64(x.updates) / to.at.Sub(began).Seconds()
	x.drain = to.at.Sub(end)
	return v.compare()
}

// median returns the middle of a function of the pairs.
func median(pairs []pair, of func(*pair) float64) float64 {
	values := make([]float64, len(pairs))
	for i := range pairs {
		values[i] = of(&pairs[i])
	}
	return judge.Median(values)
}
