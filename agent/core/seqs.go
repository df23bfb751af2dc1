package core

import (
	"fmt"

	"flotilla/wire"
)

// SeqRanges is an ascending list of seqs, run-length coded: pairs of (gap since the end of the run before, length).
type SeqRanges []uint64

// Add appends a seq that is above all others in it.
func (r SeqRanges) Add(end *wire.Seq, s wire.Seq) SeqRanges { return r.AddRun(end, s, s) }

// AddRun appends the seqs from lo to hi, which are above all others in it.
func (r SeqRanges) AddRun(end *wire.Seq, lo, hi wire.Seq) SeqRanges {
	if n := len(r); n > 0 && *end+1 == lo {
		r[n-1] += uint64(hi - *end)
	} else {
		r = append(r, uint64(lo-*end), uint64(hi-lo)+1)
	}
	*end = hi
	return r
}

// maxListedSeqs bounds what a decoded list may stand for.
const maxListedSeqs = 1 << 24

// Each calls f for every seq, ascending. It returns an error for a list that is not well formed or stands for more seqs
// than anyone may hold.
func (r SeqRanges) Each(f func(wire.Seq)) error {
	total := uint64(0)
	for i := 1; i < len(r); i += 2 {
		if r[i] > maxListedSeqs-total {
			return fmt.Errorf("read seq list: the runs up to %d are longer than %d", i/2, maxListedSeqs)
		}
		total += r[i]
	}
	return r.EachRun(func(lo, hi wire.Seq) {
		for s := lo; s <= hi; s++ {
			f(s)
		}
	})
}

// EachRun calls f for every run of seqs, ascending. It returns an error for a list that is not well formed.
func (r SeqRanges) EachRun(f func(lo, hi wire.Seq)) error {
	if len(r)%2 != 0 {
		return fmt.Errorf("read seq list: %d numbers are not pairs", len(r))
	}
	var at uint64
	for i := 0; i < len(r); i += 2 {
		gap, n := r[i], r[i+1]
		if gap == 0 || n == 0 || at+gap < at || at+gap+n < at+gap {
			return fmt.Errorf("read seq list: run %d has gap %d and length %d", i/2, gap, n)
		}
		f(wire.Seq(at+gap), wire.Seq(at+gap+n-1))
		at += gap + n - 1
	}
	return nil
}

// mix spreads a seq over 64 bits, so that the sum of a set of seqs is a digest of it (SplitMix64's finalizer).
func mix(s wire.Seq) uint64 {
	x := uint64(s) + 0x9e3779b97f4a7c15
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}

// Tally is the number and digest of distinct seqs: equal tallies are taken as equal sets.
type Tally struct {
	Count  uint64
	Digest uint64 // sum of mix(seq), modulo 2^64
}

func (t *Tally) add(s wire.Seq) {
	t.Count++
	t.Digest += mix(s)
}

func (t *Tally) remove(s wire.Seq) {
	t.Count--
	t.Digest -= mix(s)
}
