package primary

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"time"

	"flotilla/agent/core"
	"flotilla/blockdev"
	"flotilla/wire"
)

// failedOpen is a volume whose source could not be opened.
type failedOpen struct {
	group   wire.GroupID
	name    string
	path    string
	err     error
	since   time.Duration
	retryAt time.Duration
	backoff time.Duration
}

// maxBackoff bounds the wait for another try, in units of Limits.OpenAgain.
const maxBackoff = 64

// want is told by the watcher what the cluster state wants.
func (p *Primary) want(w []groupWanted) {
	p.mu.Lock()
	p.wanted = w
	p.mu.Unlock()
	kick(p.follow)
}

// follower opens volumes that the cluster state has given to this agent and closes those that it has taken away. It does
// one after the other: opening a device may take its time, and nobody else waits for it.
func (p *Primary) follower(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	<-t.C
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.follow:
		case <-t.C:
		}
		if wait := p.reconcile(ctx); wait > 0 {
			t.Reset(wait)
		}
	}
}

// reconcile makes what is open what is wanted. It returns when to try again what failed, 0 for never.
func (p *Primary) reconcile(ctx context.Context) (again time.Duration) {
	p.mu.Lock()
	wanted := p.wanted
	p.mu.Unlock()
	keep := map[wire.VolumeID]bool{}
	for i := range wanted {
		w := &wanted[i]
		g := p.group(w)
		missing := false
		for k := range w.volumes {
			v := &w.volumes[k]
			keep[v.id] = true
			if ctx.Err() != nil {
				return 0
			}
			if wait := p.ensure(g, v); wait > 0 {
				missing = true
				if again == 0 || wait < again {
					again = wait
				}
			}
		}
		if !missing {
			g.serve()
		}
	}
	for _, g := range p.allGroups() {
		p.closeUnwanted(g, keep)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.failed {
		if !keep[id] {
			delete(p.failed, id)
		}
	}
	return again
}

// group returns a group, made if it is new.
func (p *Primary) group(w *groupWanted) *group {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.groups[w.id]
	if g == nil {
		g = newGroup(p, *w)
		g.shared.Store(w.shared)
		g.begin()
		p.groups[w.id] = g
	}
	return g
}

func (g *group) begin() {
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	g.done.Go(func() { g.runCopier(ctx) })
	g.done.Go(func() { g.runChecker(ctx) })
	g.done.Go(func() { g.runSpiller(ctx) })
}

// end stops the group's copier, checker and spiller. Its volumes are closed.
func (g *group) end() {
	g.stop()
	g.done.Wait()
}

// serve tells the node that all volumes of the group are open.
func (g *group) serve() {
	g.mu.Lock()
	added := g.added
	g.added = true
	g.mu.Unlock()
	if !added {
		g.p.loop.Do(func(n *core.Node, now time.Duration) {
			n.AddSource(now, g.id)
			n.SetNeed(now, g.id, g.need(n))
		})
		g.p.kick()
	}
}

func (g *group) allVolumes() []*volume {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*volume, 0, len(g.volumes))
	for _, v := range g.volumes {
		out = append(out, v)
	}
	return out
}

// ensure opens a volume unless it is open. It returns when to try again, 0 when it is open.
func (p *Primary) ensure(g *group, w *volumeWanted) time.Duration {
	g.mu.Lock()
	v := g.volumes[w.id]
	g.mu.Unlock()
	if v != nil && w.size <= v.marks.size() {
		v.follow(w)
		return 0
	}
	if v != nil { // an earlier run has grown it, and what it knew of the volume is gone
		if err := g.closeVolume(v, false); err != nil {
			p.event(g.id, "volume.closed", "volume", v.name, "error", err.Error())
		}
	}
	now := p.loop.Now()
	p.mu.Lock()
	f := p.failed[w.id]
	p.mu.Unlock()
	if f != nil && now < f.retryAt {
		return f.retryAt - now
	}
	err := p.open(g, w)
	if err == nil {
		p.mu.Lock()
		delete(p.failed, w.id)
		p.mu.Unlock()
		return 0
	}
	if f == nil || f.err.Error() != err.Error() {
		p.event(g.id, "volume.unavailable", "volume", w.name, "path", w.path, "error", err.Error())
	}
	next := &failedOpen{group: g.id, name: w.name, path: w.path, err: err, since: now, backoff: p.limits.OpenAgain}
	if f != nil {
		next.since = f.since
		next.backoff = min(2*f.backoff, maxBackoff*p.limits.OpenAgain)
	}
	next.retryAt = p.loop.Now() + next.backoff
	p.mu.Lock()
	p.failed[w.id] = next
	p.mu.Unlock()
	return next.backoff
}

// open opens a volume's source and its activity log, and offers it.
func (p *Primary) open(g *group, w *volumeWanted) error {
	dev, err := p.openSource(w.path)
	if err != nil {
		return fmt.Errorf("open volume %s: %w", w.name, err)
	}
	medium, err := p.bitsFor(dev, w)
	if err != nil {
		return errors.Join(fmt.Errorf("open volume %s: %s: %w", w.name, w.path, err), dev.Close())
	}
	shape := bitShape{cluster: g.cluster, volume: w.id, copy: w.copy, size: w.size, extent: p.limits.extentFor(w.size)}
	marks, fresh, reason := openGrowing(medium, shape, p.reachOf(w), p.limits.NoActivityLog)
	if err := marks.openKept(p.stateFile(w.id, "kept")); reason == nil {
		reason = err
	}
	if err := blockdev.GrowTo(dev, marks.size()); err != nil {
		return errors.Join(fmt.Errorf("open volume %s: %s: %w", w.name, w.path, err), marks.close(), dev.Close())
	}
	if reason != nil {
		p.event(g.id, "volume.log-damaged", "volume", w.name, "error", reason.Error())
	}
	v := &volume{
		p: p, g: g, id: w.id, name: w.name, path: w.path, dev: dev, marks: marks, growth: growing{now: make(chan struct{}, 1)},
		applied: make(chan struct{}, 1), cached: p.cached(w.path), ended: endedContext(),
	}
	v.ctx, v.stop = context.WithCancel(p.ctx)
	v.bytes.Store(w.size)
	v.done.Go(v.runCleaner)
	v.done.Go(v.runGrower)
	g.mu.Lock()
	g.volumes[w.id] = v
	g.mu.Unlock()
	if p.exporter != nil {
		if err := p.exporter.AddExport(w.name, v); err != nil {
			p.forget(g, v)
			return errors.Join(fmt.Errorf("offer volume %s: %w", w.name, err), v.close(false))
		}
	}
	_, marked := marks.toCopy()
	p.event(g.id, "volume.open", "volume", w.name, "path", w.path, "size", w.size, "marked_bytes", min(marked, w.size), "new", fresh)
	v.follow(w)
	p.kick()
	return nil
}

// reachOf returns of which sizes a volume's bits may be. What is at the end of its device is of one size only.
func (p *Primary) reachOf(w *volumeWanted) bitReach {
	if w.bitmapAtEnd {
		return bitReach{finest: p.limits.extentFor(w.size)}
	}
	return bitReach{reach: max(w.size, w.grow), finest: p.limits.Extent}
}

// bitsFor returns where the bits of a volume lie. It refuses a device that is not of the size that this needs.
func (p *Primary) bitsFor(dev blockdev.Device, w *volumeWanted) (bitMedium, error) {
	if w.bitmapAtEnd {
		return newDeviceEnd(dev, &p.limits, w.size)
	}
	if dev.Size() < w.size {
		return nil, fmt.Errorf("the device has %d bytes and the volume has %d: give the volume a source of its size, or a larger one", dev.Size(), w.size)
	}
	return p.stateFile(w.id, "bits"), nil
}

// stateFile returns a file of the state directory for a volume.
func (p *Primary) stateFile(id wire.VolumeID, kind string) *stateFile {
	return &stateFile{fs: p.fs, name: path.Join(p.dir, strconv.FormatUint(uint64(id), 10)+"."+kind)}
}

func (p *Primary) forget(g *group, v *volume) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.volumes, v.id)
}

// closeUnwanted closes the volumes of a group that are not to be kept, and the group when none is left.
func (p *Primary) closeUnwanted(g *group, keep map[wire.VolumeID]bool) {
	left := 0
	for _, v := range g.allVolumes() {
		if keep[v.id] {
			left++
			continue
		}
		err := g.closeVolume(v, true)
		attrs := []any{"volume", v.name}
		if err != nil {
			attrs = append(attrs, "error", err.Error())
		}
		p.event(g.id, "volume.closed", attrs...)
	}
	p.mu.Lock()
	stays := left > 0
	for i := range p.wanted {
		stays = stays || p.wanted[i].id == g.id
	}
	if !stays {
		delete(p.groups, g.id)
	}
	p.mu.Unlock()
	if !stays {
		g.abandonWaits()
		g.p.loop.Do(func(n *core.Node, now time.Duration) { n.RemoveSource(now, g.id) })
		g.end()
	}
}

// removeWait bounds the wait for the clients of a volume that is withdrawn.
const removeWait = 5 * time.Second

// closeVolume withdraws a volume and closes it. gone says that the cluster has no such volume any more.
func (g *group) closeVolume(v *volume, gone bool) error {
	g.mu.Lock()
	var waits []heldWait
	kept := g.waits[:0]
	for i := range g.waits {
		if g.waits[i].v == v {
			waits = append(waits, g.waits[i])
		} else {
			kept = append(kept, g.waits[i])
		}
	}
	clear(g.waits[len(kept):])
	g.waits = kept
	v.closing = true
	g.mu.Unlock()
	v.stop()
	for i := range waits {
		waits[i].complete(errClosing)
	}
	if g.p.exporter != nil {
		// Nothing waits any more but for disks, so this ends soon; a client that takes no replies is cut off.
		ctx, cancel := context.WithTimeout(context.Background(), removeWait)
		_ = g.p.exporter.RemoveExport(ctx, v.name)
		cancel()
	}
	err := v.close(gone)
	g.p.forget(g, v)
	return err
}
