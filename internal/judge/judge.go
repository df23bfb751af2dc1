// Package judge has what programs that measure have in common: medians, and aims that figures reach or miss.
package judge

import (
	"fmt"
	"slices"
)

// Median returns the middle of the values, or the mean of the two in the middle. There must be one.
func Median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Aim is what a figure shall come to. A nil one is none.
type Aim struct {
	less  bool // below the limit; otherwise at least the limit
	limit float64
	every bool // it holds for the worst run; otherwise for the median of the runs
}

// Below is an upper limit.
func Below(limit float64) *Aim { return &Aim{less: true, limit: limit} }

// AtLeast is a lower limit.
func AtLeast(limit float64) *Aim { return &Aim{limit: limit} }

// Never is the aim of what must not happen even once.
func Never() *Aim { return &Aim{less: true, limit: 1, every: true} }

// String says it in a word; nothing for none.
func (a *Aim) String() string {
	switch {
	case a == nil:
		return ""
	case a.every && a.less && a.limit == 1:
		return "none"
	case a.less:
		return fmt.Sprintf("< %.4g", a.limit)
	}
	return fmt.Sprintf(">= %.4g", a.limit)
}

// Reached judges the values of all runs.
func (a *Aim) Reached(values []float64) bool {
	v := Median(values)
	switch {
	case a.every && a.less:
		v = slices.Max(values)
	case a.every:
		v = slices.Min(values)
	}
	if a.less {
		return v < a.limit
	}
	return v >= a.limit
}
