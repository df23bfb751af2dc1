package secondary

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flotilla/agent/apply"
	"flotilla/agent/core"
	"flotilla/blockdev"
	"flotilla/wire"
)

// A request of checks is compared under the same leave as a write of its set: the target then stands at the end of the
// set before, but for what of this set may have been written already. With the overlay of the set's own updates (see
// package apply) the range is what the source had at the check's seq, whatever of lower seqs is there already. Updates of
// higher seqs must not be: where they overlap (Later) the answer is known only if nothing of this set was written in the
// range's portion, in which one component at a time writes. Two things say so: the target's fresh, from its record and
// the replicated state, for what was written before the device was opened, and begunIn for what came since. Otherwise the
// answer is that it is not known, and the primary asks again with a check in a later set. So no order of crashes, repeats
// and late requests makes a false alarm.

// begin notes where a request is about to write.
func (t *target) begin(req *apply.Request, r run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range req.Pieces {
		t.begunIn.Add(req.Set, r.portion, req.Pieces[i].Offset, req.Pieces[i].End())
	}
}

// untouched reports whether nothing of the request's set can have been written into the portion of a check.
func (t *target) untouched(opening uint64, req *apply.Request, r run, p *apply.Piece) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.opening == opening && req.Set >= t.fresh && !t.begunIn.Has(req.Set, r.portion, p.Offset, p.End())
}

// compare performs a request of checks and tells the primary what it found. The node has let it.
func (s *Secondary) compare(ctx context.Context, t *target, req *apply.Request, r run) error {
	dev, opening, err := t.forReading(ctx)
	if err != nil {
		return err
	}
	c := comparison{t: t, req: req, run: r, dev: dev, opening: opening}
	for lo := 0; lo < len(req.Pieces); {
		hi := lo + 1
		for hi < len(req.Pieces) && req.Pieces[hi].Kind != wire.KindCheck {
			hi++
		}
		seq, _ := req.Pieces[lo].Check()
		verdict, err := c.verdict(req.Pieces[lo:hi])
		switch {
		case errors.Is(err, blockdev.ErrClosed):
			return fmt.Errorf("compare volume %d: %w", req.Volume, err)
		case err != nil:
			_ = s.failed(t, req, int64(req.Pieces[lo].Offset), err)
		}
		c.results = append(c.results, core.CheckResult{Seq: seq, Verdict: verdict})
		lo = hi
		if err := context.Cause(ctx); err != nil {
			break // what was found is told all the same
		}
	}
	s.loop.Do(func(n *core.Node, _ time.Duration) { n.ReportChecks(req.Group, req.Inc, req.Volume, c.results) })
	return context.Cause(ctx)
}

// forReading returns the device of a target that takes writes.
func (t *target) forReading(ctx context.Context) (blockdev.Device, uint64, error) {
	if err := t.lock(ctx); err != nil {
		return nil, 0, err
	}
	defer t.unlock()
	if err := t.ready(); err != nil {
		return nil, 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dev, t.opening, nil
}

// comparison is one request of checks under way.
type comparison struct {
	t       *target
	req     *apply.Request
	run     run
	dev     blockdev.Device
	opening uint64
	buf     []byte
	results []core.CheckResult
}

// verdict compares one check, pieces[0], with the target under its overlay. An error is one of the device.
func (c *comparison) verdict(pieces []apply.Piece) (core.CheckVerdict, error) {
	check := &pieces[0]
	if check.Later && !c.t.untouched(c.opening, c.req, c.run, check) {
		return core.CheckUnknown, nil
	}
	if len(c.buf) < int(check.Length) {
		c.buf = blockdev.AlignedBuffer(int(check.Length))
	}
	have := c.buf[:check.Length]
	if _, err := c.dev.ReadAt(have, int64(check.Offset)); err != nil {
		return core.CheckUnreadable, err
	}
	// A request that was given up may have begun to write while this was read.
	if check.Later && !c.t.untouched(c.opening, c.req, c.run, check) {
		return core.CheckUnknown, nil
	}
	for i := range pieces[1:] {
		p := &pieces[i+1]
		into := have[p.Offset-check.Offset : p.End()-check.Offset]
		if p.Kind == wire.KindWrite {
			copy(into, p.Data)
		} else {
			clear(into)
		}
	}
	if _, want := check.Check(); wire.Digest(have) != want {
		return core.CheckDiffers, nil
	}
	return core.CheckSame, nil
}
