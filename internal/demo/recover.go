package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"os"
	"path/filepath"
	"slices"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
	"flotilla/internal/workload"
	"flotilla/nbd/nbdclient"
)

// promote asks what would be lost, and promotes the secondary.
func (r *run) promote(ctx context.Context) error {
	r.n.title("The secondary is promoted")
	socket := r.fleet.secondary.Socket()
	at := time.Now()
	captain := ""
	err := fleet.Until(ctx, fleet.StepTime, "there is a captain", func(ctx context.Context) (bool, error) { // a dead one is replaced within seconds
		s, _, err := r.status(ctx)
		if s != nil {
			captain = s.Captain
		}
		return s != nil, err
	})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(r.fleet.primaries, func(h *fleet.Host) bool { return h.Name == r.captain }) {
		r.n.say("The captain, %s, was among the dead; the others elected %s.", r.captain, captain)
	}
	text, err := r.fleet.Command(ctx, "promote", groupName, "--plan", "--json", "--socket", socket)
	if err != nil {
		return err
	}
	var plan api.Plan
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		return fmt.Errorf("read plan of the promote: %w", err)
	}
	if plan.Point != nil {
		r.n.say("`flotilla promote %s --plan` says before anything is done: %s.", groupName, planText(&plan))
	}
	text, err = r.fleet.Command(ctx, "promote", groupName, "--json", "--wait", fleet.StepTime.String(), "--socket", socket)
	if err != nil {
		return err
	}
	r.figures.PromoteSeconds = time.Since(at).Seconds()
	var answer struct {
		Group api.Group `json:"group"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return fmt.Errorf("read outcome of the promote: %w", err)
	}
	p := answer.Group.Promote
	if p == nil || p.Point == nil {
		return errors.New("promote the group: it ended without a recovery point")
	}
	r.figures.Set, r.figures.CutAge, r.figures.SetsCommitted = p.Point.Set, r.dead.Round(0).Sub(p.Point.Label).Seconds(), int64(answer.Group.Committed)
	r.n.say("%s after it was asked for the secondary serves both volumes, at the cut after set %d, made %s before the primaries died.",
		ofSeconds(r.figures.PromoteSeconds), p.Point.Set, ofSeconds(r.figures.CutAge))
	if p.LostKnown {
		r.n.say("It says that %d updates (%s) above that cut were known to it and are lost.", p.LostUpdates, bytesText(p.LostBytes))
	}
	return nil
}

func planText(p *api.Plan) string {
	text := fmt.Sprintf("newest cut after set %d, %s old", p.Point.Set, ofSeconds(p.AgeSeconds))
	if p.LostKnown {
		return text + fmt.Sprintf("; %d updates (%s) would be lost", p.LostUpdates, bytesText(p.LostBytes))
	}
	return text + "; the primaries are silent, so what they wrote after it is not known"
}

// prove compares what is served with what was written.
func (r *run) prove(ctx context.Context) error {
	r.n.title("The proof")
	if r.o.BeforeProof != nil {
		if err := r.o.BeforeProof(r.targets); err != nil {
			return err
		}
	}
	err := r.compare(ctx)
	if err == nil {
		r.figures.Verdict = proven
	}
	return err
}

func (r *run) compare(ctx context.Context) error {
	p := &workload.Proof{Run: r.seed}
	var prefixes []workload.Prefix
	for i, v := range r.volumes {
		wait, cancel := context.WithTimeoutCause(ctx, fleet.StepTime, fleet.ErrTooLong)
		d, err := r.fleet.secondary.Dial(wait, groupName+"/"+v.Name)
		cancel()
		if err != nil {
			return err
		}
		found, err := p.Volume(ctx, v, d)
		if err == nil {
			r.n.say("%s: all %s are exactly what %s had at that cut: its image, then %d of %d updates of its writer and %d of %d records of the chain, and not a byte of a later one.",
				v.Name, bytesText(v.Layout.Size), r.fleet.primaries[i].Name, found[0].K, found[0].N, found[1].K, found[1].N)
		}
		if err == nil && i == 0 && r.ext4 > 0 {
			err = r.checkFilesystem(ctx, d)
		}
		if err = errors.Join(err, d.Close()); err != nil {
			return err
		}
		prefixes = append(prefixes, found...)
		r.figures.Compared += v.Layout.Size
	}
	for _, f := range prefixes {
		r.figures.Streams = append(r.figures.Streams, StreamFigures{Name: f.Stream.Name, Recovered: f.K, Issued: f.N})
	}
	record, err := workload.Chain(prefixes[1], prefixes[3])
	if err != nil {
		return err
	}
	r.figures.ChainRecord = record
	there, err := workload.Causes(prefixes)
	if err != nil {
		return err
	}
	if there == 0 {
		return fmt.Errorf("%w: none of the clients' updates was recovered", ErrDiffers)
	}
	r.n.say("The chain across both hosts is intact: record %d is there and so are all before it, on the one host and on the other.", record)
	r.n.say("Of %d recovered updates none was issued after the reply to one that is missing.", there)
	r.countLost(prefixes)
	r.n.say("Lost with the primaries: %d acknowledged updates (%s), those of their last %s.", r.figures.LostUpdates, bytesText(r.figures.LostBytes), ofSeconds(r.figures.LostSeconds))
	return nil
}

// countLost counts what was acknowledged and is not recovered.
func (r *run) countLost(prefixes []workload.Prefix) {
	dead := r.dead.Sub(r.clients.Started())
	for _, p := range prefixes {
		updates := p.Stream.All()
		t := workload.Acknowledged(updates, p.K)
		r.figures.LostUpdates += t.Updates
		r.figures.LostBytes += t.Bytes
		if t.Updates > 0 {
			r.figures.LostSeconds = max(r.figures.LostSeconds, (dead - updates[p.K].Issued).Seconds())
		}
	}
}

// checkFilesystem lets e2fsck look at the recovered file system, where that is installed and content with the original.
func (r *run) checkFilesystem(ctx context.Context, d *nbdclient.Client) (err error) {
	tool := findTool("e2fsck")
	if tool == "" {
		r.n.say("(e2fsck, of the package e2fsprogs, is not installed: the file system is compared, but not checked.)")
		return nil
	}
	if _, err := r.fleet.Spawn.Run(ctx, nil, tool, "-fn", filepath.Join(r.dir, "image")); err != nil {
		if ctx.Err() != nil {
			return err
		}
		r.n.say("(e2fsck is not content with the image as it was given, so the copy is compared, but not checked.)")
		return nil
	}
	path := filepath.Join(r.dir, "recovered")
	if err := r.fetch(ctx, d, path); err != nil {
		return err
	}
	if text, err := r.fleet.Spawn.Run(ctx, nil, tool, "-fn", path); err != nil {
		return fmt.Errorf("%w: e2fsck finds the recovered file system damaged: %w: %s", ErrDiffers, err, text)
	}
	r.n.say("e2fsck finds the recovered ext4 file system clean.")
	return nil
}

// fetch copies the file system of a recovered volume to a file.
func (r *run) fetch(ctx context.Context, d *nbdclient.Client, path string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("copy recovered file system: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, mib)
	for at := int64(0); at < r.ext4; at += mib {
		part := buf[:min(mib, r.ext4-at)]
		if err := d.ReadAt(ctx, part, at); err != nil {
			return fmt.Errorf("read recovered file system: %w", err)
		}
		if _, err := f.Write(part); err != nil {
			return fmt.Errorf("copy recovered file system: %w", err)
		}
	}
	return nil
}
