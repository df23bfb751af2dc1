package nbd

import (
	"errors"
	"fmt"
	"io"
	"os"

	"flotilla/nbd/internal/proto"
)

// ErrProtocol is returned for a connection whose client broke the protocol so
// that the stream cannot be followed any further.
var ErrProtocol = errors.New("NBD protocol violated")

// errDrained ends a connection that the server has drained.
var errDrained = errors.New("nbd connection drained")

// Replies are sent when the input has run dry, but also after that many
// requests or bytes, so that a client and the server work at the same time.
const (
	flushRequests = 16
	flushBytes    = 64 << 10
)

// readRequests handles requests until the client disconnects (nil), goes
// away, breaks the protocol, or the connection is drained.
func (c *conn) readRequests(in *input) error {
	for {
		if in.parked.Load() && in.empty() {
			return errParked
		}
		head, err := in.header()
		if err != nil {
			return c.readFailed(err)
		}
		q, ok := proto.ParseRequest(head)
		if !ok {
			return fmt.Errorf("%w: request starts with %#x instead of the magic number", ErrProtocol, head[:4])
		}
		if q.Type == proto.CmdDisc {
			return nil
		}
		if err := c.handle(in, q); err != nil {
			return c.readFailed(err)
		}
		if c.unsent >= flushBytes {
			c.unsent = 0
			c.flush()
		}
	}
}

// flushUnit is what a request without data counts in unsent.
const flushUnit = flushBytes / flushRequests

// payloadShare is how many payload bytes weigh as much as one byte of a reply: the replies of some larger writes leave
// together, and the client is not kept waiting for all.
const payloadShare = 4

// readFailed turns an error of the stream into the reason for the end.
func (c *conn) readFailed(err error) error {
	c.mu.Lock()
	draining, parking := c.draining, c.parking
	c.mu.Unlock()
	switch {
	case parking && errors.Is(err, os.ErrDeadlineExceeded) && c.in.empty() && !c.in.resumed:
		return errParked
	case draining && errors.Is(err, os.ErrDeadlineExceeded):
		return errDrained
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: stream ends inside a request", ErrProtocol)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: request not complete after %v", ErrProtocol, c.srv.limits.Stall)
	}
	return err
}

// handle reads the data of q, if it has any, and hands it to the export or
// refuses it.
func (c *conn) handle(in *input, q proto.Request) error {
	refusal := c.check(q)
	payload := int64(0)
	if q.Type == proto.CmdWrite {
		payload = int64(q.Length)
	}
	if refusal == nil && q.Length == 0 && q.Type != proto.CmdFlush {
		return c.answerEmpty(q)
	}
	if refusal != nil {
		return c.refuse(in, q, payload, refusal)
	}

	var cost int64
	if q.Type == proto.CmdWrite || q.Type == proto.CmdRead {
		cost = classSize(int(q.Length))
	}
	if err := c.admit(cost); err != nil {
		return err
	}
	var buf *Buffer
	if cost > 0 {
		buf = c.srv.pool.get(int(q.Length))
	}
	if payload > 0 {
		if err := in.payload(buf.Bytes()); err != nil {
			buf.Release()
			c.forget(cost)
			return err
		}
	}
	c.unsent += flushUnit
	if q.Type == proto.CmdWrite {
		c.unsent += int(cost) / payloadShare
	} else {
		c.unsent += int(cost)
	}
	c.start(c.newRequest(q, buf, cost))
	return nil
}

// newRequest makes the request that the export sees.
func (c *conn) newRequest(q proto.Request, buf *Buffer, cost int64) *Request {
	c.mu.Lock()
	r := c.takeLocked()
	c.mu.Unlock()
	r.Op, _ = requestOp(q.Type)
	r.FUA = q.Flags&proto.CmdFlagFUA != 0
	r.NoHole = q.Flags&proto.CmdFlagNoHole != 0
	r.FastZero = q.Flags&proto.CmdFlagFastZero != 0
	r.Offset, r.Length = int64(q.Offset), int64(q.Length)
	r.buf, r.cookie, r.cost = buf, q.Cookie, cost
	if r.Op == OpBlockStatus {
		r.extents.reset(r.Length, q.Flags&proto.CmdFlagReqOne != 0)
	}
	r.phase.Store(phaseStarting)
	return r
}

// start hands r to the export, here or on a worker.
func (c *conn) start(r *Request) {
	if c.export.Try(r) {
		c.detach(r)
		return
	}
	c.workers.submit(r)
}

// forget takes a request that will not be answered off the books.
func (c *conn) forget(cost int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inflight--
	c.cost -= cost
	c.srv.budget.release(cost)
	c.changedLocked()
}

// refuse answers q with an error. The data of a write come all the same; they
// are read and dropped, up to what a client may ever send in good faith.
func (c *conn) refuse(in *input, q proto.Request, payload int64, refusal error) error {
	if payload > max(proto.DefaultMaxLength, 2*int64(c.info.MaxPayload)) {
		return fmt.Errorf("%w: write of %d bytes, the limit is %d", ErrProtocol, payload, c.info.MaxPayload)
	}
	if err := in.discard(payload); err != nil {
		return err
	}
	if err := c.admit(0); err != nil {
		return err
	}
	c.unsent += flushUnit
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue.count++
	c.queue.addStatus(q.Cookie, c.structured, errnoOf(refusal, q.Flags&proto.CmdFlagFastZero != 0), refusal.Error())
	return nil
}

// answerEmpty completes a request over no bytes: there is nothing to do.
func (c *conn) answerEmpty(q proto.Request) error {
	if err := c.admit(0); err != nil {
		return err
	}
	c.unsent += flushUnit
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue.count++
	if q.Type == proto.CmdRead {
		c.queue.addEmpty(q.Cookie, c.structured)
	} else {
		c.queue.addStatus(q.Cookie, c.structured, 0, "")
	}
	return nil
}
