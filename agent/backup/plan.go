package backup

import (
	"cmp"
	"slices"

	"flotilla/agent/apply"
	"flotilla/agent/core"
	"flotilla/wire"
)

// How pieces become requests.
const (
	// maxMerged bounds a piece made of several, in bytes; larger device writes gain nothing.
	maxMerged = 1 << 20
	// maxZeroed bounds zeroes and trims made of several, in bytes.
	maxZeroed = 1 << 30
	// maxRequestData leaves room for one more merged piece below apply.MaxData.
	maxRequestData = apply.MaxData - maxMerged
)

// frameUse is what a window takes out of one stored frame.
type frameUse struct {
	ref   ref
	parts []int // of the Apply; rising, each once
}

// window is what is read, sorted and sent together. Its frames follow each other in the journal, and no other window of
// the same plan reads them.
type window struct {
	frames []frameUse
	pieces []core.Piece // ascending by (volume, offset)
	bytes  int          // data of the pieces
}

// makePlan folds the parts and cuts them into windows of up to limit bytes; a frame with more has one for itself.
// Every stored frame is in one window at most, and those of which nothing is left are in none. Parts without a ref of
// this package are reported.
func makePlan(parts []core.Part, limit int) ([]window, error) {
	byFrame := map[ref][]core.Piece{}
	var fold folder
	// Updates lie inside their portion, and parts of a portion stand together, so that portions can be folded one by one.
	for lo := 0; lo < len(parts); {
		hi := lo + 1
		for hi < len(parts) && parts[hi].Update.PortionID() == parts[lo].Update.PortionID() {
			hi++
		}
		for _, p := range fold.portion(parts, lo, hi) {
			r, ok := parts[p.Part].Ref.(ref)
			if !ok {
				return nil, errNotStored
			}
			byFrame[r] = append(byFrame[r], p)
		}
		lo = hi
	}
	refs := make([]ref, 0, len(byFrame))
	for r := range byFrame {
		refs = append(refs, r)
	}
	slices.SortFunc(refs, compareRefs)

	var plan []window
	for _, r := range refs {
		use, n := frameUse{ref: r}, 0
		for _, p := range byFrame[r] {
			use.parts = append(use.parts, p.Part)
			n += dataBytes(parts, &p)
		}
		slices.Sort(use.parts)
		use.parts = slices.Compact(use.parts)
		if len(plan) == 0 || plan[len(plan)-1].bytes+n > limit {
			plan = append(plan, window{})
		}
		w := &plan[len(plan)-1]
		w.frames = append(w.frames, use)
		w.pieces = append(w.pieces, byFrame[r]...)
		w.bytes += n
	}
	for i := range plan {
		slices.SortFunc(plan[i].pieces, func(a, b core.Piece) int {
			return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Offset, b.Offset))
		})
	}
	return plan, nil
}

// folder folds the parts of one portion after the other. Its buffers are used again.
type folder struct {
	order  []int
	run    []core.Part
	pieces []core.Piece
}

// portion returns what [core.Fold] would, for parts[lo:hi], with indices into parts. Most updates of a set overlap no
// other, and folding takes the square of their number when all are given at once; so only runs that overlap are folded.
// The result is valid until the next call.
func (f *folder) portion(parts []core.Part, lo, hi int) []core.Piece {
	f.order, f.pieces = f.order[:0], f.pieces[:0]
	for i := lo; i < hi; i++ {
		switch u := parts[i].Update; u.Kind {
		case wire.KindWrite, wire.KindZero, wire.KindTrim:
			if u.Length > 0 {
				f.order = append(f.order, i)
			}
		}
	}
	slices.SortFunc(f.order, func(a, b int) int { return cmp.Compare(parts[a].Update.Offset, parts[b].Update.Offset) })
	for rest := f.order; len(rest) > 0; {
		n, end := 1, parts[rest[0]].Update.End()
		for n < len(rest) && parts[rest[n]].Update.Offset < end {
			end = max(end, parts[rest[n]].Update.End())
			n++
		}
		f.fold(parts, rest[:n])
		rest = rest[n:]
	}
	return f.pieces
}

// fold appends the pieces of a run of parts that overlap.
func (f *folder) fold(parts []core.Part, run []int) {
	if len(run) == 1 {
		u := parts[run[0]].Update
		f.pieces = append(f.pieces, core.Piece{Volume: u.Volume, Offset: u.Offset, Length: u.Length, Part: run[0]})
		return
	}
	f.run = f.run[:0]
	for _, i := range run {
		f.run = append(f.run, parts[i])
	}
	for _, p := range core.Fold(f.run) {
		p.Part = run[p.Part]
		f.pieces = append(f.pieces, p)
	}
}

// dataBytes returns the bytes that a piece carries.
func dataBytes(parts []core.Part, p *core.Piece) int {
	switch parts[p.Part].Update.Kind {
	case wire.KindWrite:
		return int(p.Length)
	case wire.KindCheck:
		return wire.DigestLength
	}
	return 0
}

// layout gives every piece of a write, and every digest, its place in an arena, so that neighbours on the volume are neighbours there.
// It returns the places by the index of the piece.
func (w *window) layout(parts []core.Part) []int {
	at := make([]int, len(w.pieces))
	n := 0
	for i := range w.pieces {
		at[i] = n
		n += dataBytes(parts, &w.pieces[i])
	}
	return at
}

// requests merges neighbours and packs the pieces of the volumes in targets. The data lies in the arena as layout says.
func (w *window) requests(parts []core.Part, at []int, arena []byte, head apply.Request, targets map[wire.VolumeID]wire.AgentID) []*apply.Request {
	var out []*apply.Request
	var r *apply.Request
	bytes := 0
	for i := range w.pieces {
		p := &w.pieces[i]
		if targets[p.Volume] == 0 {
			continue // deleted since
		}
		kind, n := parts[p.Part].Update.Kind, dataBytes(parts, p)
		if r == nil || r.Volume != p.Volume || len(r.Pieces) == apply.MaxPieces || bytes+n > maxRequestData && bytes > 0 {
			next := head
			next.Volume, next.Pieces = p.Volume, nil
			r, bytes = &next, 0
			out = append(out, r)
		}
		bytes += n
		data := arena[at[i] : at[i]+n]
		if len(r.Pieces) > 0 {
			last := &r.Pieces[len(r.Pieces)-1]
			if last.Kind == kind && last.End() == p.Offset && uint64(last.Length)+uint64(p.Length) <= mergeLimit(kind) {
				last.Length += p.Length
				if kind == wire.KindWrite {
					last.Data = arena[at[i]-len(last.Data) : at[i]+n]
				}
				continue
			}
		}
		piece := apply.Piece{Kind: kind, Offset: p.Offset, Length: p.Length}
		if kind == wire.KindWrite {
			piece.Data = data
		}
		r.Pieces = append(r.Pieces, piece)
	}
	for _, r := range out {
		for i := range r.Pieces {
			if p := &r.Pieces[i]; p.Kind == wire.KindWrite {
				p.Sum = apply.Sum(p.Data)
			}
		}
	}
	return out
}

func mergeLimit(k wire.Kind) uint64 {
	if k == wire.KindWrite {
		return maxMerged
	}
	return maxZeroed
}
