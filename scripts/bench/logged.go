package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// offName is what the JSON lines call a volume whose activity log is off.
const offName = "activity log off"

// sparseTail is what the volumes of this kind have behind the part that is filled and written, in bytes: their extents
// keep the bits that are kept for the hottest busy until the run, so that its own must be set first.
const sparseTail = int64(2) << 30

// logged is a primary and one component, once with its activity log and once without. The primary's state directory, where
// the bits are, is on a disk: on tmpfs a flush would cost nothing.
func logged(state string, off bool) clusterKind {
	return clusterKind{
		name: loggedName, state: state, settings: fmt.Sprintf("activity_log: {off: %v}\n", off), tail: sparseTail,
		agents: []member{{"primary", "primary", "primary"}, {"backup", "backup, secondary", "components"}},
	}
}

// loggedName is that of the kind in rows.
const loggedName = "log"

// measureLogged measures the rows that compare a volume with its activity log with one without. Both clusters run, one
// after the other is used.
func measureLogged(ctx context.Context, o options, dir string, rows []row, rep *report) (failed error) {
	rows = slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r.cluster != loggedName })
	if len(rows) == 0 {
		return nil
	}
	var volumes []*volume
	for _, off := range []bool{false, true} {
		v, end, err := startLogged(ctx, o, filepath.Join(dir, fmt.Sprintf("%s-%v", loggedName, off)), off)
		defer func() { failed = errors.Join(failed, end()) }()
		if err != nil {
			return err
		}
		volumes = append(volumes, v)
	}
	for _, r := range rows {
		var pairs []pair
		for i := range o.pairs {
			var on, off pair
			steps := []func() error{
				func() error { return on.runOwn(ctx, o, r.Job, volumes[0]) },
				func() error { return off.runOwn(ctx, o, r.Job, volumes[1]) },
			}
			if i%2 == 1 {
				slices.Reverse(steps)
			}
			for _, step := range steps {
				if err := step(); err != nil {
					return fmt.Errorf("row %s: %w", r.name(), err)
				}
			}
			on.peer = off.own
			pairs = append(pairs, on)
		}
		rep.against(r.name(), r.aim, pairs, func(p *pair) float64 { return p.own.IOPS }, func(p *pair) float64 { return p.peer.IOPS }, "IOPS", offName)
		rep.detail("%s: the other figure is not nbdkit's but that of the same volume with activity_log.off", r.name())
	}
	return nil
}

// startLogged starts a cluster in a directory that it makes, with its volume. end is to be called whether it fails or not.
func startLogged(ctx context.Context, o options, dir string, off bool) (v *volume, end func() error, err error) {
	state, err := os.MkdirTemp("", "flotilla-bench-")
	if err != nil {
		return nil, func() error { return nil }, fmt.Errorf("make a state directory on a disk: %w", err)
	}
	end = func() error { return errors.Join(os.RemoveAll(state), os.RemoveAll(dir)) }
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, end, fmt.Errorf("make a directory for the cluster: %w", err)
	}
	c, err := startAgents(ctx, o, dir, logged(filepath.Join(state, "primary"), off))
	if err != nil {
		return nil, end, err
	}
	end = func() error { return errors.Join(c.stop(), os.RemoveAll(state), os.RemoveAll(dir)) }
	v, err = createVolume(ctx, c, o.size)
	return v, end, err
}
