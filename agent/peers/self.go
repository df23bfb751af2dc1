package peers

import (
	"context"

	"flotilla/agent/core"
)

// runSelf is the goroutine of a link of the agent to itself: it hands on what is queued, as the goroutine of a connection
// would, with no socket between.
func (l *link) runSelf(ctx context.Context) {
	var taken []item
	for ctx.Err() == nil {
		l.mu.Lock()
		taken, l.queue = l.queue, taken[:0]
		l.mu.Unlock()
		if len(taken) == 0 {
			select {
			case <-ctx.Done():
			case <-l.wake:
			}
			continue
		}
		for i := range taken {
			if ctx.Err() == nil {
				l.deliver(&taken[i])
			}
			l.written(taken[i:i+1], ctx.Err() == nil)
		}
	}
	l.p.retire(l, true)
	l.drop(ErrClosed)
}

// deliver hands on one item. The release of a frame goes to its receiver.
func (l *link) deliver(it *item) {
	p := l.p
	switch l.kind {
	case Control:
		m, err := core.DecodeMessage(it.msg.Payload)
		if err != nil {
			l.counter.refused.Add(1)
			return
		}
		p.opts.OnMessage(p.self, m)
	case Data:
		release := it.release
		if release == nil {
			release = func() {}
		}
		it.release = nil
		p.opts.OnFrame(p.self, it.msg.Route, it.msg.Payload, release)
	}
}
