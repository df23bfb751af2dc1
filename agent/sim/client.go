package sim

import (
	"encoding/binary"
	"errors"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// client is an application that writes one thing after another. A chained client writes a counter into its own slots,
// spread over the volumes of all primaries, and goes on only when the write before was acknowledged: whatever is
// recovered must be a prefix of its chain. The others write, zero and trim ranges at random, and now and then overwrite
// one range many times, faster than it can be sent.
type client struct {
	w     *World
	id    int
	group wire.GroupID
	slots []slot // of a chained client
	count uint64
	pace  time.Duration
	sync  bool // the group's mode
	// of a client without a chain
	volume wire.VolumeID
	burst  int // how often it still overwrites its hot range, without a pause
	hot    int // which one that is
}

type slot struct {
	host   *host
	volume wire.VolumeID
	block  int
}

const (
	chainClients = 2
	noiseClients = 2
	hotRanges    = 3  // that a client without a chain overwrites; one of them crosses the border of a portion
	hotLength    = 3  // blocks
	chainShift   = 56 // a chained value has its client's number above these bits
)

// makeClients gives the first blocks of every volume to the chains.
func (w *World) makeClients(st *cluster.State) {
	for _, id := range cluster.SortedKeys(st.Groups) {
		w.makeClientsOf(st.Groups[id])
	}
	w.stats.Clients = len(w.clients)
	w.oracle.begin()
}

func (w *World) makeClientsOf(g *cluster.Group) {
	var vols []*cluster.Volume
	for _, id := range cluster.SortedKeys(g.Volumes) {
		vols = append(vols, g.Volumes[id])
	}
	most := chainClients + noiseClients
	if n := w.opt.Reduce.Clients; n > 0 {
		most = min(most, n)
	}
	had := len(w.clients)
	for c := range min(chainClients, most) {
		cl := &client{w: w, id: had + c + 1, group: g.ID, sync: g.Mode == cluster.Sync, pace: w.between(time.Millisecond, 30*time.Millisecond)}
		for i := range 5 {
			v := vols[(c+i)%len(vols)]
			s := slot{host: w.host(v.Primary), volume: v.ID, block: (i/len(vols))*chainClients + c}
			cl.slots = append(cl.slots, s)
			// What was there before belongs to no chain.
			s.host.sources[v.ID].write(s.block, 0)
			s.host.sources[v.ID].flush()
		}
		w.clients = append(w.clients, cl)
		w.after(w.between(0, 50*time.Millisecond), "chain", cl.next)
	}
	for c := range most + had - len(w.clients) {
		v := vols[w.rng.IntN(len(vols))]
		cl := &client{w: w, id: had + chainClients + c + 1, group: g.ID, volume: v.ID, pace: w.between(2*time.Millisecond, 60*time.Millisecond)}
		w.clients = append(w.clients, cl)
		w.after(w.between(0, 50*time.Millisecond), "noise", func() { cl.noise(w.host(v.Primary)) })
	}
}

// reserved is how many blocks of each volume belong to the chains.
const reserved = 5 * chainClients

// next writes the chain's next value, for as long as it takes.
func (c *client) next() {
	if !c.w.writing {
		return
	}
	c.count++
	s := c.slots[c.count%uint64(len(c.slots))]
	value := uint64(c.id)<<chainShift | c.count
	c.try(s, value)
}

func (c *client) try(s slot, value uint64) {
	w := c.w
	if s.host.node == nil {
		w.after(20*time.Millisecond, "chain waits", func() { c.try(s, value) })
		return
	}
	answered := false
	run := s.host.run
	started := w.now
	s.host.write(s.volume, s.block, []uint64{value}, wire.KindWrite, w.power, func(err error) {
		answered = true
		if err != nil {
			w.after(20*time.Millisecond, "chain repeats", func() { c.try(s, value) })
			return
		}
		if d := w.now - started; !c.sync && d > w.stats.MaxBlocked {
			w.stats.MaxBlocked = d
		}
		w.after(w.between(0, c.pace), "chain", c.next)
	})
	var watch func()
	watch = func() {
		if answered {
			return
		}
		if s.host.node == nil || s.host.run != run {
			c.try(s, value) // the same write again: whether the first one counts nobody knows
			return
		}
		w.after(20*time.Millisecond, "chain watch", watch)
	}
	w.after(20*time.Millisecond, "chain watch", watch)
}

// noise writes at random.
func (c *client) noise(h *host) {
	w := c.w
	if !w.writing {
		return
	}
	pace := c.pace
	again := func() { w.after(w.between(0, pace), "noise", func() { c.noise(h) }) }
	if h.node == nil || w.now < w.quiet[c.group] {
		w.after(30*time.Millisecond, "noise waits", func() { c.noise(h) })
		return
	}
	blocks := h.offers(c.volume)
	first := reserved + w.rng.IntN(blocks-reserved)
	n := 1 + w.rng.IntN(min(6, blocks-first))
	if c.burst == 0 && w.rng.IntN(6) == 0 {
		c.burst, c.hot = 2+w.rng.IntN(12), w.rng.IntN(hotRanges)
	}
	if c.burst > 0 {
		c.burst--
		first, n = reserved+c.hot*hotLength, hotLength
		pace = time.Millisecond
	}
	kind := wire.KindWrite
	values := make([]uint64, n)
	switch w.rng.IntN(8) {
	case 0:
		kind = wire.KindZero
	case 1:
		kind = wire.KindTrim
	default:
		for i := range values {
			values[i] = w.oracle.value()
		}
	}
	answered := false
	run := h.run
	h.write(c.volume, first, values, kind, false, func(error) { answered = true; again() })
	var watch func()
	watch = func() {
		if answered {
			return
		}
		if h.node == nil || h.run != run {
			again()
			return
		}
		w.after(50*time.Millisecond, "noise watch", watch)
	}
	w.after(50*time.Millisecond, "noise watch", watch)
}

// write is the write path of a primary's shell: range lock, activity log, source, number, reply.
func (h *host) write(vol wire.VolumeID, first int, values []uint64, kind wire.Kind, through bool, done func(error)) {
	w := h.w
	v := h.primary[vol]
	if v == nil {
		return // the volume was closed: its clients are cut off
	}
	alive := h.alive()
	for b := first; b < first+len(values); b++ {
		if v.locked[b] {
			w.after(time.Millisecond, "range lock", func() {
				if alive() {
					h.write(vol, first, values, kind, through, done)
				}
			})
			return
		}
	}
	for b := first; b < first+len(values); b++ {
		v.locked[b] = true
	}
	v.group.waiting++
	reply := done
	done = func(err error) {
		v.group.waiting--
		reply(err)
	}
	off, length := int64(first)*blockSize, int64(len(values))*blockSize
	started := w.now
	source := func() {
		if !alive() {
			return
		}
		if h.broken() {
			h.failSource(v, first, values, off, length, done)
			return
		}
		for i, x := range values {
			v.dev.write(first+i, x)
		}
		if through {
			v.dev.through(first, len(values))
		}
		h.number(v, first, values, kind, off, length, started, done)
	}
	e0, e1 := v.ext.Range(off, length)
	kept := v.keptIn(e0, e1)
	grew := v.ext.Touch(off, length)
	if w.opt.Mutants["kept-over-write"] {
		v.keepAll(kept)
	}
	if (grew || !h.bits[vol].cover(e0, e1)) && !w.opt.Mutants["bits-after-write"] {
		h.saveBits(source)
	} else {
		w.after(h.disk(0, 500*time.Microsecond), "source write", source)
	}
}

// number is the second half, repeated while the group stands still.
func (h *host) number(v *volume, first int, values []uint64, kind wire.Kind, off, length int64, started time.Duration, done func(error)) {
	w := h.w
	alive := h.alive()
	ups := h.updates(v.id, first, values, kind)
	g := v.group.id
	inc, seq, err := v.group.submit(ups)
	h.follow() // the node may have opened a set before: its copy comes first
	view, _ := h.node.View(g)
	switch {
	case errors.Is(err, core.ErrPaused):
		w.after(500*time.Microsecond, "stands still", func() {
			if alive() {
				h.number(v, first, values, kind, off, length, started, done)
			}
		})
		return
	case errors.Is(err, core.ErrSetFull):
		h.do(func(n *core.Node) { n.Suspend(h.time(), g) })
		w.after(w.between(50*time.Millisecond, time.Second), "unsuspend", func() {
			if alive() {
				h.do(func(n *core.Node) { n.Unsuspend(h.time(), g) })
			}
		})
		fallthrough
	case err != nil:
		if view.Mode == cluster.Sync && !view.Early {
			w.after(5*time.Millisecond, "blocks", func() {
				if alive() {
					h.number(v, first, values, kind, off, length, started, done)
				}
			})
			return
		}
		w.oracle.unnumbered(v.id, first, values)
		v.ext.Dirtied(off, length)
	default:
		w.stats.Writes++
		w.oracle.numbered(h, inc, view.Open, seq, ups)
		v.ext.Numbered(off, length, view.Open)
	}
	for b := first; b < first+len(values); b++ {
		delete(v.locked, b)
	}
	w.stats.MaxHold = max(w.stats.MaxHold, w.now-started)
	h.do(func(*core.Node) {})
	if view.Mode != cluster.Sync || view.Early {
		w.oracle.acked(v.id, first, values, placed{inc, seq, view.Mode == cluster.Async})
		done(nil)
		return
	}
	var wait func()
	wait = func() {
		if !alive() {
			return
		}
		vw, _ := h.node.View(g)
		held := vw.Whole && vw.Open != 0 && ((vw.Inc == inc && vw.HeldUpTo >= seq) || vw.Inc > inc)
		if held || vw.Early {
			w.oracle.acked(v.id, first, values, placed{inc, seq, held})
			done(nil)
			return
		}
		w.after(2*time.Millisecond, "waits for held", wait)
	}
	wait()
}

// encodeBlocks makes the payload of blocks: eight bytes stand for each.
func encodeBlocks(values []uint64) []byte {
	b := make([]byte, 0, 8*len(values))
	for _, v := range values {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// decodeBlock returns block i of an update.
func decodeBlock(u *wire.Update, i uint32) uint64 {
	if u.Kind != wire.KindWrite {
		return 0
	}
	return binary.LittleEndian.Uint64(u.Data[8*i:])
}
