package main

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	thousand := make([]int, 1000) // 1 … 1000
	for i := range thousand {
		thousand[i] = i + 1
	}
	for _, tc := range []struct {
		values []int
		q      float64
		want   int
	}{
		{thousand, 0, 1}, {thousand, 0.5, 500}, {thousand, 0.99, 990}, {thousand, 0.999, 999}, {thousand, 0.9991, 1000}, {thousand, 1, 1000},
		{[]int{7}, 0, 7}, {[]int{7}, 0.999, 7}, {[]int{1, 9}, 0.5, 1}, {[]int{1, 9}, 0.51, 9},
		{thousand[:999], 0.999, 999}, // one in a thousand is less than one of 999: the maximum
	} {
		if got := quantile(tc.values, tc.q); got != tc.want {
			t.Errorf("quantile %v of %d values: %d, want %d", tc.q, len(tc.values), got, tc.want)
		}
	}
	// For each n and q: at least q·n values are not above it, and it is the smallest such.
	for n := 1; n <= 60; n++ {
		for per := 0; per <= 100; per++ {
			k := quantile(thousand[:n], float64(per)/100)
			if enough := 100*k >= per*n; !enough || (k > 1 && 100*(k-1) >= per*n) {
				t.Errorf("quantile %d%% of 1…%d: %d", per, n, k)
			}
		}
	}
}

func TestLatencies(t *testing.T) {
	var samples []sample
	for i := range 2000 { // due every millisecond; those of the second second take 1 … 1000 ms
		due := time.Duration(i) * time.Millisecond
		took := time.Millisecond
		if i >= 1000 {
			took = time.Duration(2000-i) * time.Millisecond
		}
		samples = append(samples, sample{due: due, sent: due, done: due + took})
	}
	if l := latenciesOf(samples, within(time.Second, 2*time.Second), (*sample).latency); len(l) != 1000 || l.at(0.999) != 999 || l.at(1) != 1000 || l.at(0.5) != 500 {
		t.Errorf("%d, p99.9 %v, maximum %v, p50 %v", len(l), l.at(0.999), l.at(1), l.at(0.5))
	}
	if l := latenciesOf(samples, within(5*time.Second, 6*time.Second), (*sample).latency); l.at(0.5) != 0 {
		t.Errorf("of nothing: %v", l.at(0.5))
	}
}
