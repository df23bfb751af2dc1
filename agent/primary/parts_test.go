package primary_test

import (
	"bytes"
	"context"
	"time"

	"flotilla/agent/core"
	"flotilla/blockdev"
	"flotilla/wire"
)

// WaitRoom makes the link one that says when it has room.
func (h *host) WaitRoom(ctx context.Context, _ wire.AgentID) error {
	h.w.mu.Lock()
	c := h.w.noRoom
	h.w.mu.Unlock()
	if c == nil {
		return ctx.Err()
	}
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// SendFrame is the link.
func (h *host) SendFrame(to wire.AgentID, r wire.Route, body []byte, release func()) error {
	raw := bytes.Clone(body)
	clear(body) // who used the memory after release would be seen
	release()
	h.w.mu.Lock()
	down := h.w.linkDown
	h.w.mu.Unlock()
	if down {
		return nil
	}
	b, err := wire.ParseBody(raw)
	if err == nil {
		_, err = b.Decompress(nil, h.dec)
	}
	if err != nil || to != 1 {
		h.w.t.Errorf("frame to %d: %v", to, err)
		return nil
	}
	for i := range b.Updates {
		if err := b.Updates[i].Verify(b.Group, b.Incarnation); err != nil {
			h.w.t.Errorf("received: %v", err)
		}
	}
	h.loop.Do(func(n *core.Node, now time.Duration) { n.ReceiveFrame(now, 1, r, b) })
	return nil
}

// runJournal answers stores.
func (h *host) runJournal(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-h.stores:
			h.w.mu.Lock()
			if h.w.noStore {
				h.w.unstored = append(h.w.unstored, s)
				h.w.mu.Unlock()
				continue
			}
			h.w.mu.Unlock()
			h.stored(s)
		}
	}
}

func (h *host) stored(s core.Store) {
	h.w.mu.Lock()
	h.w.frames = append(h.w.frames, s.Body)
	h.w.mu.Unlock()
	h.loop.Do(func(n *core.Node, now time.Duration) { n.Stored(now, s.ID, s.Body, nil) })
}

// storeAgain lets the journal answer what it was asked meanwhile.
func (w *world) storeAgain() {
	w.mu.Lock()
	w.noStore = false
	late := w.unstored
	w.unstored = nil
	w.mu.Unlock()
	for _, s := range late {
		w.host.stored(s)
	}
}

// runTargets answers applies.
func (h *host) runTargets(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-h.apply:
			h.w.mu.Lock()
			off := h.w.noApply
			if off {
				h.w.unapplied = append(h.w.unapplied, a)
			}
			h.w.mu.Unlock()
			if !off {
				h.applied(a)
			}
		}
	}
}

// target returns the target of a volume, which a test may replace.
func (w *world) target(id wire.VolumeID) *blockdev.Memory {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.targets[id]
}

func (h *host) applied(a core.Apply) {
	var err error
	h.loop.Do(func(n *core.Node, now time.Duration) { err = n.BeginApply(1, a.Group, a.View, a.Set) })
	if err == nil {
		h.check(a)
		time.Sleep(h.w.lag)
		for _, pc := range core.Fold(a.Parts) {
			part := a.Parts[pc.Part]
			u := &part.Ref.(*wire.Body).Updates[part.Index]
			dev := h.w.target(pc.Volume)
			if u.Kind == wire.KindWrite {
				_, err = dev.WriteAt(u.Data[pc.From:pc.From+pc.Length], int64(pc.Offset))
			} else {
				err = dev.Trim(int64(pc.Offset), int64(pc.Length))
			}
			if err != nil {
				break
			}
		}
		h.loop.Do(func(n *core.Node, now time.Duration) { n.EndApply(a.Group) })
	}
	h.loop.Do(func(n *core.Node, now time.Duration) { n.ApplyDone(now, a.Token, err) })
}

// check answers the checks of a set, as a secondary: what is there, and what the set has put there below each check's seq.
func (h *host) check(a core.Apply) {
	update := func(p core.Part) *wire.Update { return &p.Ref.(*wire.Body).Updates[p.Index] }
	for _, p := range a.Parts {
		c := update(p)
		if c.Kind != wire.KindCheck {
			continue
		}
		dev := h.w.target(c.Volume)
		have := make([]byte, dev.Size())
		if _, err := dev.ReadAt(have, 0); err != nil {
			h.w.t.Error(err)
		}
		for _, q := range a.Parts { // ascending by seq in each portion
			if u := update(q); u.Volume == c.Volume && u.Seq < c.Seq && u.Kind != wire.KindMark && u.Kind != wire.KindCheck {
				clear(have[u.Offset:u.End()])
				copy(have[u.Offset:u.End()], u.Data)
			}
		}
		digest := wire.Digest(have[c.Offset:c.End()])
		result := core.CheckResult{Seq: c.Seq, Verdict: core.CheckSame}
		if !bytes.Equal(digest[:], c.Data) {
			result.Verdict = core.CheckDiffers
		}
		if f := h.w.verdict; f != nil {
			result.Verdict = f(result.Verdict)
		}
		if result.Verdict != 0 {
			h.loop.Do(func(n *core.Node, _ time.Duration) {
				n.ReportChecks(a.Group, a.Inc, c.Volume, []core.CheckResult{result})
			})
		}
	}
}
