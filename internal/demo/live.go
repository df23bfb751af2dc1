package demo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
	"flotilla/internal/workload"
)

// The group's settings: short sets, and portions small enough for each component to get some.
const (
	period      = "200ms"
	portionSize = "4MiB"
)

// Of what is waited for between the acts.
const (
	setsBeforeKill = 5               // committed after the first copy
	settle         = 2 * time.Second // of writing after the takeover
	breath         = fleet.AskEvery  // between two looks while time passes
	stretch        = fleet.StepTime  // for what has no time of its own
)

// replicate makes the group, lets clients write, and follows the first copy.
func (r *run) replicate(ctx context.Context) error {
	r.n.title("The first copy, while clients write")
	socket := r.fleet.secondary.Socket()
	if _, err := r.fleet.Command(ctx, "group", "create", groupName, "--period", period, "--portion-size", portionSize, "--socket", socket); err != nil {
		return err
	}
	at := time.Now()
	for i, v := range r.volumes {
		_, err := r.fleet.Command(ctx, "volume", "create", groupName+"/"+v.Name, "--primary", r.fleet.primaries[i].Name, "--source", r.sources[i],
			"--secondary", r.fleet.secondary.Name, "--target", r.targets[i], "--socket", socket)
		if err != nil {
			return err
		}
		r.figures.CopyBytes += v.Layout.Size
	}
	wait, cancel := context.WithTimeoutCause(ctx, fleet.StepTime, fleet.ErrTooLong)
	defer cancel()
	for i, v := range r.volumes {
		d, err := r.fleet.primaries[i].Dial(wait, groupName+"/"+v.Name)
		if err != nil {
			return err
		}
		r.clients.Use(d)
	}
	r.clients.Start(ctx, r.volumes, r.fail)
	r.n.say("Three clients write over NBD: one on each volume, and one that writes a chain of records across both hosts: record after record, by turns "+
		"here and there, each only when the one before was acknowledged. The group makes a consistent set every %s.", period)
	bar := r.n.progress("first copy")
	err := fleet.Until(ctx, stretch+time.Duration(r.figures.CopyBytes/mib)*time.Second, "the first copy is whole", func(ctx context.Context) (bool, error) {
		_, g, err := r.status(ctx)
		if err != nil || g == nil {
			return false, err
		}
		done := copied(g)
		bar.at(done, r.figures.CopyBytes)
		return done == r.figures.CopyBytes && g.Point != nil, nil
	})
	if err != nil {
		return err
	}
	r.figures.CopySeconds = time.Since(at).Seconds()
	held := "on two components"
	if r.o.Components == 1 {
		held = "by the component"
	}
	r.n.say("The volumes of the secondary follow now: every set is applied as a whole, once all of it is held %s.", held)
	return nil
}

// copied returns how many bytes of the volumes' first copy are done.
func copied(g *api.Group) (done int64) {
	for _, v := range g.Volumes {
		switch {
		case v.Copied:
			done += v.Size
		case v.CopyTotal > 0: // what is done, but not whole before the volume says so
			done += min(int64(float64(v.Size)*(1-float64(v.CopyLeft)/float64(v.CopyTotal))), v.Size-1)
		}
	}
	return done
}

// loseComponent kills the component that owns most, and waits until the others hold everything as before.
func (r *run) loseComponent(ctx context.Context) error {
	r.n.title("A backup component dies")
	if err := r.sets(ctx, setsBeforeKill); err != nil {
		return err
	}
	s, err := r.victim(ctx)
	if err != nil {
		return err
	}
	r.clients.TakeSlowest()
	at := time.Now()
	if err := r.killed.Kill(); err != nil {
		return err
	}
	captain := ""
	if s.Captain == r.killed.Name {
		captain = ", the cluster's captain,"
	}
	if r.o.Components == 1 {
		r.n.say("SIGKILL to %s%s in the middle of the writing. It is the only component: it is started again and goes on with its journal.", r.killed.Name, captain)
		if err := r.fleet.Start(ctx, r.killed); err != nil {
			return err
		}
	} else {
		r.n.say("SIGKILL to %s%s in the middle of the writing. It owned %.0f%% of what was not yet applied. It stays dead.", r.killed.Name, captain, r.figures.KilledShare)
	}
	t := &takeover{killed: r.killed.Name, returns: r.o.Components == 1, restarted: time.Now(), calm: map[string]bool{}}
	err = fleet.Until(ctx, stretch, "the other components have taken over", func(ctx context.Context) (bool, error) {
		s, g, err := r.status(ctx)
		return s != nil && g != nil && t.done(s, g), err
	})
	if err != nil {
		return err
	}
	r.figures.Takeover, r.figures.SlowestInKill, r.figures.Degraded = time.Since(at).Seconds(), r.clients.TakeSlowest().Seconds(), t.degraded
	switch {
	case r.o.Components == 1:
		r.n.say("%s after the kill it was back and a new set was committed.", ofSeconds(r.figures.Takeover))
	case t.degraded:
		r.n.say("%s after the kill the last component had taken over and a new set was committed. The status says \"degraded\": updates have a single copy now.", ofSeconds(r.figures.Takeover))
	default:
		r.n.say("%s after the kill the others had shared out its part, everything was held twice again, and a new set was committed.", ofSeconds(r.figures.Takeover))
	}
	r.n.say("No write failed; the slowest reply meanwhile took %s.", ofSeconds(r.figures.SlowestInKill))
	return nil
}

// victim chooses who is killed: who owns most of what is unapplied, seen over a few looks as that comes and goes.
func (r *run) victim(ctx context.Context) (last *api.Status, err error) {
	owned := map[string]int64{}
	looks := 0
	err = fleet.Until(ctx, fleet.StepTime, "the components report their shares", func(ctx context.Context) (bool, error) {
		s, _, err := r.status(ctx)
		if s == nil {
			return false, err
		}
		last = s
		for _, c := range s.Components {
			if c.Member {
				owned[c.Agent] += c.OwnedUpdates
			}
		}
		looks++
		return looks >= 10, nil
	})
	if err != nil {
		return nil, err
	}
	var all int64
	for _, h := range r.fleet.components {
		if all += owned[h.Name]; r.killed == nil || owned[h.Name] > owned[r.killed.Name] {
			r.killed = h
		}
	}
	r.figures.Killed, r.figures.KilledShare = r.killed.Name, 100*float64(owned[r.killed.Name])/float64(max(all, 1))
	return last, nil
}

// sets waits until so many more sets are committed.
func (r *run) sets(ctx context.Context, more uint64) error {
	var first *uint64
	return fleet.Until(ctx, fleet.StepTime, "sets are committed", func(ctx context.Context) (bool, error) {
		_, g, err := r.status(ctx)
		if g == nil {
			return false, err
		}
		if first == nil {
			first = new(g.Committed)
		}
		return g.Committed >= *first+more, err
	})
}

// takeover decides when the loss of a component is over. A set commits only when each of its updates and of those before
// is held by two members, or the view says that there is but one. So it is over when the view is as it shall be, nobody
// is still copying what had lost its second copy, and a set is committed that was open after that view began.
type takeover struct {
	killed    string
	returns   bool
	restarted time.Time

	seen     bool // the view that is waited for
	open     uint64
	calm     map[string]bool // members that were seen with nothing left to copy
	degraded bool
}

func (t *takeover) done(s *api.Status, g *api.Group) bool {
	i := slices.IndexFunc(s.Components, func(c api.Component) bool { return c.Agent == t.killed })
	if i < 0 {
		return false
	}
	dead := s.Components[i]
	there := dead.Member && dead.HeardSeconds != nil && *dead.HeardSeconds < time.Since(t.restarted).Seconds()
	if there != t.returns || (!t.returns && dead.Member) {
		return false
	}
	if !t.seen {
		t.seen, t.open = true, g.Open
	}
	calm := true
	for _, c := range s.Components {
		if c.Member && c.HeardSeconds != nil && !c.Rebuilding {
			t.calm[c.Agent] = true
		}
		calm = calm && (!c.Member || t.calm[c.Agent])
	}
	t.degraded = s.Degraded
	return calm && g.Committed >= max(t.open, 1)
}

// disaster kills both primaries in the middle of the writing.
func (r *run) disaster(ctx context.Context) error {
	r.n.title("The site of the primaries is lost")
	if err := r.writeOn(ctx); err != nil {
		return err
	}
	if err := r.votersElsewhere(ctx); err != nil {
		return err
	}
	for _, h := range r.fleet.primaries {
		sent, err := sentBytes(ctx, h)
		if err != nil {
			return fmt.Errorf("ask %s what it sent: %w", h.Name, err)
		}
		r.figures.SentBytes += sent
	}
	r.clients.Doom()
	for _, h := range r.fleet.primaries { // both, before one is waited for
		if err := h.Doom(); err != nil {
			return err
		}
	}
	r.dead = time.Now()
	for _, h := range r.fleet.primaries {
		if err := h.Kill(); err != nil {
			return err
		}
	}
	r.clients.Close()
	for _, v := range r.volumes {
		for _, s := range v.Streams {
			t := workload.Acknowledged(s.All(), 0)
			r.figures.Updates += t.Updates
			r.figures.WrittenBytes += t.Bytes
		}
	}
	if len(r.rpo) > 0 {
		slices.Sort(r.rpo)
		r.figures.RPOMedian, r.figures.RPOWorst = r.rpo[len(r.rpo)/2], r.rpo[len(r.rpo)-1]
	}
	r.n.say("SIGKILL to both primaries at once, in the middle of the writing. Until then %d updates (%s) had been acknowledged, and none had failed.",
		r.figures.Updates, bytesText(r.figures.WrittenBytes))
	return nil
}

// writeOn lets clients write for as long as was asked for, and a little after the takeover.
func (r *run) writeOn(ctx context.Context) error {
	end := time.Now().Add(max(settle, r.o.Run-r.clients.Now()))
	r.n.say("The clients write on for %s.", seconds(time.Until(end)))
	return fleet.Until(ctx, time.Until(end)+stretch, "the clients have written long enough", func(ctx context.Context) (bool, error) {
		_, _, err := r.status(ctx)
		return time.Now().After(end), err
	})
}

// votersElsewhere waits until most of those who vote on the cluster's state will outlive the primaries. After a loss
// the captain needs a moment to replace a voter.
func (r *run) votersElsewhere(ctx context.Context) error {
	return fleet.Until(ctx, fleet.StepTime, "most voters are outside the primaries' site", func(ctx context.Context) (bool, error) {
		s, _, err := r.status(ctx)
		if s == nil {
			return false, err
		}
		voters, stay := 0, 0
		for _, a := range s.Agents {
			if !a.Voter {
				continue
			}
			voters++
			gone := slices.ContainsFunc(r.fleet.primaries, func(h *fleet.Host) bool { return h.Name == a.Name })
			if !gone && (a.Name != r.killed.Name || r.o.Components == 1) {
				stay++
			}
		}
		return 2*stay > voters, nil
	})
}

// sentBytes asks an agent how many bytes of updates it has sent; frames of updates are the kind data.
func sentBytes(ctx context.Context, h *fleet.Host) (int64, error) {
	m, err := h.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	sent, err := m.Sum("flotilla_peer_sent_bytes_total", `kind="data"`)
	return int64(sent), err
}
