package backup

import (
	"sync"

	"flotilla/wire"
)

// payload is the raw bytes of one received frame, counted by who still needs them.
type payload struct {
	size    int64
	release func()

	// Guarded by payloads.mu.
	intake int // holders that the intake budget stands for: OnFrame and the keeper
	mirror int // transports
}

// payloads accounts for the raw bytes of received frames; see the package comment for who holds them.
type payloads struct {
	intakeLimit, mirrorLimit int64

	mu      sync.Mutex
	room    sync.Cond               // on mu: one of the numbers below went down, or closed
	closed  bool                    // guarded by mu
	inside  int                     // admitted calls of OnFrame, guarded by mu
	intake  int64                   // bytes, guarded by mu
	mirrors int64                   // bytes, guarded by mu
	taking  map[*wire.Body]*payload // bodies that the sinks may ask for, guarded by mu
}

func (p *payloads) init(intakeLimit, mirrorLimit int64) {
	p.intakeLimit, p.mirrorLimit = intakeLimit, mirrorLimit
	p.room.L = &p.mu
	p.taking = map[*wire.Body]*payload{}
}

// admit waits until there is room for a frame, and counts it. It returns false once closed. A frame that is larger than
// the limit goes alone.
func (p *payloads) admit(size int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed && p.intake > 0 && p.intake+size > p.intakeLimit {
		p.room.Wait()
	}
	if p.closed {
		return false
	}
	p.intake += size
	p.inside++
	return true
}

// forget takes back an admit whose frame went nowhere.
func (p *payloads) forget(size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.intake -= size
	p.inside--
	p.room.Broadcast()
}

// begin makes an admitted body known to the sinks. end must follow.
func (p *payloads) begin(b *wire.Body, size int64, release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taking[b] = &payload{size: size, release: release, intake: 1}
}

func (p *payloads) end(b *wire.Body) {
	p.mu.Lock()
	pl := p.taking[b]
	delete(p.taking, b)
	p.mu.Unlock()
	p.stored(pl)
	p.mu.Lock()
	p.inside--
	p.room.Broadcast()
	p.mu.Unlock()
}

// forStore holds the body's bytes for the keeper. It returns nil for a body that was made here; stored takes that too.
func (p *payloads) forStore(b *wire.Body) *payload {
	p.mu.Lock()
	defer p.mu.Unlock()
	pl := p.taking[b]
	if pl != nil {
		pl.intake++
	}
	return pl
}

// stored lets go of what forStore held.
func (p *payloads) stored(pl *payload) {
	if pl == nil {
		return
	}
	p.mu.Lock()
	pl.intake--
	if pl.intake == 0 {
		p.intake -= pl.size
		p.room.Broadcast()
	}
	last := pl.intake == 0 && pl.mirror == 0
	p.mu.Unlock()
	if last {
		pl.release()
	}
}

// forMirror holds the body's bytes for the transport, or returns false if too much is held so already.
func (p *payloads) forMirror(b *wire.Body) (pl *payload, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pl = p.taking[b]
	if pl == nil {
		return nil, true
	}
	if p.mirrors > 0 && p.mirrors+pl.size > p.mirrorLimit {
		return nil, false
	}
	pl.mirror++
	p.mirrors += pl.size
	return pl, true
}

// forRemirror waits until a frame that was made from the journal may be held for the transport. It returns nil once closed.
func (p *payloads) forRemirror(size int64) *payload {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed && p.mirrors > 0 && p.mirrors+size > p.mirrorLimit {
		p.room.Wait()
	}
	if p.closed {
		return nil
	}
	p.mirrors += size
	return &payload{size: size, release: func() {}, mirror: 1}
}

// sent lets go of what forMirror held.
func (p *payloads) sent(pl *payload) {
	if pl == nil {
		return
	}
	p.mu.Lock()
	pl.mirror--
	p.mirrors -= pl.size
	p.room.Broadcast()
	last := pl.intake == 0 && pl.mirror == 0
	p.mu.Unlock()
	if last {
		pl.release()
	}
}

// close refuses whoever waits for room, and returns when no call of OnFrame is inside any more.
func (p *payloads) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.room.Broadcast()
	for p.inside > 0 {
		p.room.Wait()
	}
}
