package peers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"flotilla/agent/apply"
	"flotilla/wire"
)

const (
	callHeaderLength   = 8
	answerHeaderLength = 9
	maxAnswerText      = 1 << 10 // longer texts of errors are cut
)

// ErrRefused says that the peer got a request and answered it with an error.
var ErrRefused = errors.New("the peer refuses")

// call is a request that waits for its answer.
type call struct {
	number uint64
	result chan error // capacity 1; ended once
}

// end is called by whoever has taken the call out of its link's calls.
func (c *call) end(err error) { c.result <- err }

// CallApply asks a peer, or this agent, to perform a request and returns what came of it: nil, an error that wraps
// ErrRefused with the peer's words, or one that says that the answer did not come (ErrUnreachable, ErrClosed, the
// context's). Then the request may have been performed all the same. It waits while Limits.ApplyCalls others to the
// peer are under way. The data may be used again when it has returned.
func (p *Peers) CallApply(ctx context.Context, to wire.AgentID, r *apply.Request) error {
	var err error
	if to == p.self {
		err = p.applyHere(ctx, r)
	} else {
		err = p.applyThere(ctx, to, r)
	}
	if err != nil {
		return fmt.Errorf("apply set %d of group %d to volume %d at agent %d: %w", r.Set, r.Group, r.Volume, to, err)
	}
	return nil
}

func (p *Peers) applyThere(ctx context.Context, to wire.AgentID, r *apply.Request) error {
	for {
		var l *link
		if err := p.withLink(to, Apply, func(found *link) error { l = found; return nil }); err != nil {
			return err
		}
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.ctx.Done():
			return ErrClosed
		}
		c, err := l.ask(r)
		switch {
		case errors.Is(err, errRetired) && p.ctx.Err() == nil:
			continue
		case errors.Is(err, errRetired):
			return ErrClosed
		case err != nil:
			return err
		}
		return p.await(ctx, l, c)
	}
}

// ask queues a request. The caller has a slot, which ask gives back when it fails.
func (l *link) ask(r *apply.Request) (*call, error) {
	b := l.p.pool.get(callHeaderLength + min(r.Length(), apply.MaxLength))
	raw, err := r.Append(b.data[:callHeaderLength])
	if err != nil {
		b.release()
		<-l.slots
		return nil, err
	}
	c := &call{result: make(chan error, 1)}
	l.mu.Lock()
	c.number = l.nextCall
	l.nextCall++
	binary.LittleEndian.PutUint64(raw, c.number)
	err = l.putLocked(item{msg: wire.Message{Type: typeApply, Payload: raw}, size: int64(len(raw)), release: b.release})
	if err == nil {
		l.calls[c.number] = c
	}
	l.mu.Unlock()
	if err != nil {
		l.counter.dropped.Add(1)
		b.release()
		<-l.slots
		return nil, err
	}
	return c, nil
}

// await waits for the end of a call.
func (p *Peers) await(ctx context.Context, l *link, c *call) error {
	select {
	case err := <-c.result:
		<-l.slots
		return err
	case <-ctx.Done():
		// The peer may be busy with it still: its place is free when the answer comes.
		p.abandon(l, c)
		return ctx.Err()
	}
}

// abandon leaves a call to a goroutine that waits for its end. Every call ends: with its answer, with its connection, or
// with Close.
func (p *Peers) abandon(l *link, c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return // nobody needs the place any more
	}
	p.running.Go(func() {
		<-c.result
		<-l.slots
	})
}

// calling reports whether answers are waited for.
func (l *link) calling() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.calls) > 0
}

// answered ends the call that an answer is for.
func (l *link) answered(raw []byte) error {
	if len(raw) < answerHeaderLength || raw[8] > 1 {
		return fmt.Errorf("answer of %d bytes: %w", len(raw), wire.ErrCorrupt)
	}
	number := binary.LittleEndian.Uint64(raw)
	l.mu.Lock()
	c := l.calls[number]
	delete(l.calls, number)
	l.mu.Unlock()
	if c == nil {
		return fmt.Errorf("answer to call %d, which nobody waits for: %w", number, wire.ErrCorrupt)
	}
	var err error
	if raw[8] == 0 {
		err = fmt.Errorf("%w: %s", ErrRefused, strings.ToValidUTF8(string(raw[answerHeaderLength:]), "?"))
	}
	c.end(err)
	return nil
}

// takeCall performs a request of a peer and answers it.
func (in *incoming) takeCall(ctx context.Context, raw []byte) {
	var err error
	answer := make([]byte, callHeaderLength, answerHeaderLength)
	if len(raw) < callHeaderLength {
		in.refuseMessage(fmt.Errorf("apply request of %d bytes has no number: %w", len(raw), apply.ErrInvalid))
		in.closeSocket() // nobody can be answered
		return
	}
	copy(answer, raw)
	r, err := apply.Parse(raw[callHeaderLength:])
	if err != nil {
		in.refuseMessage(err)
	} else {
		err = in.p.opts.OnApply(ctx, in.peer, r)
	}
	if err == nil {
		answer = append(answer, 1)
	} else {
		text := err.Error()
		answer = append(append(answer, 0), text[:min(len(text), maxAnswerText)]...)
	}
	select {
	case in.answers <- answer:
	case <-ctx.Done():
	}
}

// applyHere performs a request to this agent itself, with the checks that it would pass on its way to another.
func (p *Peers) applyHere(ctx context.Context, r *apply.Request) error {
	if err := r.Validate(); err != nil {
		return err
	}
	select {
	case p.selfSlots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ctx.Done():
		return ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	done := make(chan error, 1)
	p.mu.Lock()
	if p.closed || !p.started {
		p.mu.Unlock()
		<-p.selfSlots
		return ErrClosed
	}
	p.running.Go(func() {
		defer func() { <-p.selfSlots }()
		done <- p.opts.OnApply(ctx, p.self, r)
	})
	p.mu.Unlock()
	// The data is the caller's again when this returns, so it waits for the end whatever happens: who performs a
	// request looks at its context.
	if err := <-done; err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}
