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
// before anything of the share is written, while the target stands at the end of the set before: what the share's own
// updates of lower seqs put into a range is laid over it. So folding and sorting of the writes need not know of checks, and
// an application that is repeated finds the same outside of what it writes itself. Updates of higher seqs that overlap
// the range are the exception, since a repeat may find them written: the piece says so (Later), and the secondary, which
// knows whether it is a repeat, answers that it does not know.
//
// A check fails no set: what cannot be asked is not answered, and the primary asks again.

// checkUnit is one check of a share and what overlays its range.
type checkUnit struct {
	part    int // of the Apply
	later   bool
	overlay []core.Piece // ascending, disjoint, inside the check's range
}

// findChecks returns the checks among parts, which are ascending by (volume, portion, seq).
func findChecks(parts []core.Part) []checkUnit {
	var units []checkUnit
	for lo := 0; lo < len(parts); {
		hi := lo + 1
		for hi < len(parts) && parts[hi].Update.PortionID() == parts[lo].Update.PortionID() {
			hi++
		}
		for i := lo; i < hi; i++ {
			if u := parts[i].Update; u.Kind == wire.KindCheck && u.Length <= apply.MaxCheckRange {
				units = append(units, overlaid(parts, lo, hi, i))
			}
		}
		lo = hi
	}
	return units
}

// overlaid makes the unit of the check parts[at], whose portion's parts are parts[lo:hi].
func overlaid(parts []core.Part, lo, hi, at int) checkUnit {
	c, unit := parts[at].Update, checkUnit{part: at}
	var below []core.Part
	var index []int
	for i := lo; i < hi; i++ {
		u := parts[i].Update
		if !isContent(u.Kind) || u.Offset >= c.End() || u.End() <= c.Offset {
			continue
		}
		if u.Seq > c.Seq {
			unit.later = true
			continue
		}
		below, index = append(below, parts[i]), append(index, i)
	}
	for _, p := range core.Fold(below) {
		first, end := max(p.Offset, c.Offset), min(p.Offset+uint64(p.Length), c.End())
		if first >= end {
			continue
		}
		p.From += uint32(first - p.Offset)
		p.Part, p.Offset, p.Length = index[p.Part], first, uint32(end-first)
		unit.overlay = append(unit.overlay, p)
	}
	return unit
}

func isContent(k wire.Kind) bool {
	return k == wire.KindWrite || k == wire.KindZero || k == wire.KindTrim
}

// checkBatch is the checks of one request.
type checkBatch struct {
	window
	later []bool // by piece
}

// batchChecks packs units of one volume each into requests.
func batchChecks(parts []core.Part, units []checkUnit) ([]checkBatch, error) {
	var out []checkBatch
	var b *checkBatch
	var volume wire.VolumeID
	checked := 0
	for i := range units {
		c := parts[units[i].part].Update
		pieces := append([]core.Piece{{Volume: c.Volume, Offset: c.Offset, Length: c.Length, Part: units[i].part}}, units[i].overlay...)
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
		b.later = append(b.later, units[i].later)
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
	units := findChecks(a.Parts)
	if len(units) == 0 {
		return
	}
	err := w.askChecks(ctx, a, units, head)
	if err != nil && !errors.Is(err, errStale) && w.b.ctx.Err() == nil {
		w.b.opt.Logger.Warn("checks are not answered: their primary asks again", "group", a.Group, "set", a.Set, "error", err)
	}
}

func (w *applier) askChecks(ctx context.Context, a *core.Apply, units []checkUnit, head apply.Request) error {
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
