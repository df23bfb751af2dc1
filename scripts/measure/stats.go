package main

import (
	"math"
	"slices"
	"time"
)

// quantile returns the smallest of the values that at least the part q of them does not exceed (nearest rank): no value is
// made up between two that were measured. The values are ascending; there must be one. q is from 0 to 1.
func quantile[T any](ascending []T, q float64) T {
	// The product may be a hair above the whole number that it should be.
	rank := int(math.Ceil(q*float64(len(ascending)) - 1e-9))
	return ascending[min(max(rank, 1), len(ascending))-1]
}

// latencies are times, ascending.
type latencies []time.Duration

// latenciesOf sorts what of returns for the samples that are wanted.
func latenciesOf(samples []sample, want func(*sample) bool, of func(*sample) time.Duration) latencies {
	var out latencies
	for i := range samples {
		if s := &samples[i]; want(s) {
			out = append(out, of(s))
		}
	}
	slices.Sort(out)
	return out
}

// at returns a quantile in milliseconds; 0 when there is nothing.
func (l latencies) at(q float64) float64 {
	if len(l) == 0 {
		return 0
	}
	return milliseconds(quantile(l, q))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
