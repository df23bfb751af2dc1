package backup

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"flotilla/agent/core"
	"flotilla/wire"
)

// ErrClosed is returned when the component is not started, or closed.
var ErrClosed = errors.New("the backup component is not running")

// OnFrame takes a frame that an authenticated agent sent. raw belongs to this package until it calls release, which it
// does exactly once, also when it returns an error. OnFrame blocks while too much waits for the disk.
//
// An error that wraps wire.ErrCorrupt or wire.ErrUnsupported says that the bytes are no body: the caller drops the
// connection, and the sender sends what it has not had acknowledged again.
func (b *Backup) OnFrame(from wire.AgentID, r wire.Route, raw []byte, release func()) error {
	size := int64(len(raw))
	if !b.running.Load() || !b.payloads.admit(size) {
		release()
		return ErrClosed
	}
	body, err := b.parse(raw)
	if err != nil {
		b.payloads.forget(size)
		release()
		b.stats.refused.Add(1)
		b.opt.Logger.Warn("a frame is refused", "from", from, "frame", r.No, "error", err)
		return fmt.Errorf("take frame %d of agent %d: %w", r.No, from, err)
	}
	b.payloads.begin(body, size, release)
	b.loop.Do(func(n *core.Node, now time.Duration) { n.ReceiveFrame(now, from, r, body) })
	b.payloads.end(body)
	b.stats.received.Add(1)
	return nil
}

// parse reads and checks a body. Afterwards its marks have data of their own, and nothing else has any, so that the raw
// bytes can be reused while the node keeps the headers.
func (b *Backup) parse(raw []byte) (*wire.Body, error) {
	body, err := wire.ParseBody(raw)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(body.Updates, isMark) {
		return body, nil
	}
	if _, err := body.Decompress(nil, b.decoder); err != nil {
		return nil, err
	}
	for i := range body.Updates {
		u := &body.Updates[i]
		if !isMark(*u) {
			u.Data = nil
			continue
		}
		// A mark is acted upon here and not at a target, so its sum is checked here.
		if err := u.Verify(body.Group, body.Incarnation); err != nil {
			return nil, fmt.Errorf("%w: %w", wire.ErrCorrupt, err)
		}
		u.Data = slices.Clone(u.Data)
	}
	return body, nil
}

func isMark(u wire.Update) bool { return u.Kind == wire.KindMark }
