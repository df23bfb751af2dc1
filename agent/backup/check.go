package backup

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"flotilla/agent/apply"
	"flotilla/agent/core"
	"flotilla/wire"
)

// An owner's share of a set may hold checks: digests of ranges as the source had them at their seq. They are compared
// before anything of the share is written, while the target stands at the end of the set before, under what core.FindChecks
// lays over it.
//
// A check fails no set: what cannot be asked is not answered, and the primary asks again.

// checkBatch is the checks of one request.
type checkBatch struct {
	window
	later []bool // by piece
}

// batchChecks packs units of one volume each into requests.
func batchChecks(parts []core.Part, units []core.CheckUnit) ([]checkBatch, error) {
	var out []checkBatch
	var b *checkBatch
	var volume wire.VolumeID
	checked := 0
	for i := range units {
		c := parts[units[i].Part].Update
		pieces := append([]core.Piece{{Volume: c.Volume, Offset: c.Offset, Length: c.Length, Part: units[i].Part}}, units[i].Overlay...)
		bytes := 0
		for k := range pieces {
			bytes += dataBytes(parts, &pieces[k])
		}
		if len(pieces) > apply.MaxPieces || bytes > maxRequestData {
			continue // too finely written in one set: it is asked again
		}
		if b == nil || volume != c.Volume || len(b.pieces)+len(pieces) > apply.MaxPieces || b.bytes+bytes > maxRequestData || checked+int(c.Length) > apply.MaxChecked {
			out = append(out, checkBatch{})
			b, volume, checked = &out[len(out)-1], c.Volume, 0
		}
		b.later = append(b.later, units[i].Later)
		b.later = append(b.later, make([]bool, len(pieces)-1)...)
		b.pieces = append(b.pieces, pieces...)
		b.bytes += bytes
		checked += int(c.Length)
	}
	for i := range out {
		if err := out[i].findFrames(parts); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// findFrames lists the stored frames that the pieces are in.
func (w *window) findFrames(parts []core.Part) error {
	byFrame := map[ref][]int{}
	for i := range w.pieces {
		k := w.pieces[i].Part
		r, ok := parts[k].Ref.(ref)
		if !ok {
			return errNotStored
		}
		byFrame[r] = append(byFrame[r], k)
	}
	for r, use := range byFrame {
		slices.Sort(use)
		w.frames = append(w.frames, frameUse{ref: r, parts: slices.Compact(use)})
	}
	slices.SortFunc(w.frames, func(a, b frameUse) int { return compareRefs(a.ref, b.ref) })
	return nil
}

func compareRefs(a, b ref) int {
	return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.Segment, b.Segment), cmp.Compare(a.Offset, b.Offset))
}

// check has the secondaries compare what the share's checks say. Nothing of the share is written yet.
func (w *applier) check(ctx context.Context, a *core.Apply, head apply.Request) {
	units := core.FindChecks(a.Parts, apply.MaxCheckRange)
	if len(units) == 0 {
		return
	}
	err := w.askChecks(ctx, a, units, head)
	if err != nil && !errors.Is(err, errStale) && w.b.ctx.Err() == nil {
		w.b.opt.Logger.Warn("checks are not answered: their primary asks again", "group", a.Group, "set", a.Set, "error", err)
	}
}

func (w *applier) askChecks(ctx context.Context, a *core.Apply, units []core.CheckUnit, head apply.Request) error {
	batches, err := batchChecks(a.Parts, units)
	if err != nil {
		return err
	}
	for i := range batches {
		targets, err := w.b.targets(a)
		if err != nil {
			return err
		}
		at, err := w.read(ctx, a, &batches[i].window, &w.arenas[0])
		if err != nil {
			return err
		}
		r := batches[i].request(a.Parts, at, w.arenas[0], head)
		if len(r.Pieces) == 0 || targets[r.Volume] == 0 {
			continue
		}
		// After the first error the others are not tried: one time-out is enough to wait for.
		if err := w.callCheck(ctx, targets[r.Volume], r); err != nil {
			return err
		}
	}
	return nil
}

func (w *applier) callCheck(ctx context.Context, to wire.AgentID, r *apply.Request) error {
	ctx, cancel := context.WithTimeout(ctx, w.b.opt.CallTimeout)
	defer cancel()
	return w.b.opt.Net.CallApply(ctx, to, r)
}

// request makes the request out of what read has put into the arena.
func (b *checkBatch) request(parts []core.Part, at []int, arena []byte, head apply.Request) *apply.Request {
	r := &head
	r.Checks, r.Pieces = true, nil
	known := false // the check before is of a hash that this agent knows
	for i := range b.pieces {
		p := &b.pieces[i]
		u, data := parts[p.Part].Update, arena[at[i]:at[i]+dataBytes(parts, p)]
		switch {
		case u.Kind == wire.KindCheck:
			if known = p.Length > 0; !known {
				continue
			}
			r.Volume = p.Volume
			r.Pieces = append(r.Pieces, apply.NewCheck(p.Offset, p.Length, b.later[i], u.Seq, [wire.DigestLength]byte(data)))
		case !known:
		case u.Kind == wire.KindWrite:
			r.Pieces = append(r.Pieces, apply.Piece{Kind: u.Kind, Offset: p.Offset, Length: p.Length, Sum: apply.Sum(data), Data: data})
		default:
			r.Pieces = append(r.Pieces, apply.Piece{Kind: u.Kind, Offset: p.Offset, Length: p.Length})
		}
	}
	return r
}
