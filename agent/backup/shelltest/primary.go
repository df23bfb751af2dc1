package shelltest

import (
	"bytes"
	"errors"
	"sync"

	"flotilla/agent/core"
	"flotilla/wire"
)

// Primary is a primary role without devices: it submits what the test says and remembers what the target is to become.
type Primary struct {
	c    *Cluster
	a    *Agent
	work chan struct{} // capacity 1
	stop chan struct{}
	done sync.WaitGroup
	enc  *wire.Encoder
}

func newPrimary(c *Cluster, a *Agent) *Primary {
	enc, err := wire.NewEncoder(wire.CodecS2)
	if err != nil {
		c.T.Fatal(err)
	}
	return &Primary{c: c, a: a, work: make(chan struct{}, 1), stop: make(chan struct{}), enc: enc}
}

func (p *Primary) wake() {
	if p == nil {
		return
	}
	select {
	case p.work <- struct{}{}:
	default:
	}
}

func (p *Primary) start() {
	if p == nil {
		return
	}
	p.a.Do(func(n *core.Node) {
		n.AddSource(n.Now(), Group)
		n.SetResync(Group, false, []wire.VolumeID{Volume}, 0, 0)
	})
	p.done.Go(p.send)
}

func (p *Primary) close() {
	if p == nil {
		return
	}
	close(p.stop)
	p.done.Wait()
}

// send is the sender: it encodes and sends what is queued.
func (p *Primary) send() {
	for {
		select {
		case <-p.stop:
			return
		case <-p.work:
		}
		for {
			var out []*core.Outgoing
			p.a.Do(func(n *core.Node) {
				for _, to := range n.Hops() {
					if o := n.NextFrame(n.Now(), to, 64<<10); o != nil {
						out = append(out, o)
					}
				}
			})
			if len(out) == 0 {
				break
			}
			for _, o := range out {
				p.frame(o)
			}
		}
	}
}

func (p *Primary) frame(o *core.Outgoing) {
	for i := range o.Updates {
		if u := &o.Updates[i]; p.c.Seal != nil && u.Kind != wire.KindMark {
			p.c.Seal(u, o.Header.Group, o.Header.Incarnation)
		} else {
			u.Seal(o.Header.Group, o.Header.Incarnation)
		}
	}
	raw, err := wire.EncodeBody(nil, o.Header, o.Updates, p.enc)
	if err != nil {
		p.c.T.Errorf("encode: %v", err)
		return
	}
	p.c.deliver(o.To, func(a *Agent) { p.c.frame(a, p.a.ID, o.Route, raw) }, func() {})
}

// Submit writes at an offset; kind says what. It waits until the group takes it, and returns the set it went into.
func (p *Primary) Submit(kind wire.Kind, off int64, data []byte) (set wire.Set) {
	p.c.T.Helper()
	u := wire.Update{Volume: Volume, Portion: uint32(off / Portion), Kind: kind, Offset: uint64(off), Length: uint32(len(data))}
	if kind == wire.KindWrite {
		u.Data = bytes.Clone(data)
	} else {
		data = make([]byte, len(data))
	}
	set, _ = p.number(u)
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	copy(p.c.model[off:], data)
	return set
}

// Check asks whether a range is on the target as it was submitted. It waits until the group takes the question, and
// returns its seq and the set it went into.
func (p *Primary) Check(off, length int64) (wire.Set, wire.Seq) {
	p.c.T.Helper()
	p.c.mu.Lock()
	digest := wire.Digest(p.c.model[off : off+length])
	p.c.mu.Unlock()
	return p.number(wire.Update{
		Volume: Volume, Portion: uint32(off / Portion), Kind: wire.KindCheck, Offset: uint64(off), Length: uint32(length), Data: digest[:],
	})
}

// Checked returns what came of checks since it was last called, by seq.
func (p *Primary) Checked() map[wire.Seq]core.CheckVerdict {
	out := map[wire.Seq]core.CheckVerdict{}
	p.a.Do(func(n *core.Node) {
		for _, c := range n.TakeChecked(Group) {
			for _, r := range c.Results {
				out[r.Seq] = r.Verdict
			}
		}
	})
	return out
}

// number waits until the group takes an update.
func (p *Primary) number(u wire.Update) (set wire.Set, seq wire.Seq) {
	p.c.T.Helper()
	p.c.Wait("the group to take a write", func() bool {
		var err error
		p.a.Do(func(n *core.Node) {
			v, _ := n.View(Group)
			set = v.Open
			if _, seq, err = n.Submit(n.Now(), Group, []wire.Update{u}, nil); err == nil {
				v, _ = n.View(Group)
				set = v.Open
			}
		})
		if err != nil && !errors.Is(err, core.ErrDetached) && !errors.Is(err, core.ErrPaused) {
			p.c.T.Fatalf("submit: %v", err)
		}
		return err == nil
	})
	return set, seq
}

// WaitApplied waits until a set is applied as the agent knows it.
func (p *Primary) WaitApplied(set wire.Set) {
	p.c.T.Helper()
	p.c.Wait("a set to be applied", func() bool {
		var v core.GroupView
		p.a.Loop.View(func(n *core.Node) { v, _ = n.View(Group) })
		return v.Applied >= set
	})
}

// CheckTarget compares the target with what was submitted.
func (p *Primary) CheckTarget() {
	p.c.T.Helper()
	have := make([]byte, Size)
	if _, err := p.c.Target.ReadAt(have, 0); err != nil {
		p.c.T.Fatal(err)
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	for i := range have {
		if have[i] != p.c.model[i] {
			p.c.T.Fatalf("the target differs from what was written at byte %d: has %#x, want %#x", i, have[i], p.c.model[i])
		}
	}
}
