package judge

import (
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	values := []float64{9, 1, 5, 3}
	if got := Median(values); got != 4 || !slices.Equal(values, []float64{9, 1, 5, 3}) {
		t.Errorf("%v of %v", got, values)
	}
	if got := Median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("of three: %v", got)
	}
}

func TestAims(t *testing.T) {
	for _, tc := range []struct {
		aim    *Aim
		values []float64
		want   bool
	}{
		{Below(50), []float64{49.9}, true},
		{Below(50), []float64{50}, false},
		{Below(50), []float64{10, 49, 300}, true}, // the median counts
		{Below(50), []float64{10, 51, 300}, false},
		{AtLeast(0.85), []float64{0.85}, true},
		{AtLeast(0.85), []float64{0.9, 0.84, 0.1}, false},
		{Never(), []float64{0, 0, 0}, true},
		{Never(), []float64{0, 0, 1}, false}, // the worst counts
	} {
		if got := tc.aim.Reached(tc.values); got != tc.want {
			t.Errorf("%v of %v: %v", tc.aim, tc.values, got)
		}
	}
}
