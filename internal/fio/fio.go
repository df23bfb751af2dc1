// Package fio runs one job of fio and reads what fio says of it.
package fio

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Job is what fio does.
type Job struct {
	RW    string // fio's word: randwrite, randread, write, read
	Block string // such as 4k
	Depth int
	Fresh bool // every write has new random data; otherwise fio writes the same few buffers again and again
}

// Name says it in a word.
func (j Job) Name() string { return fmt.Sprintf("%s-%s-qd%d", j.RW, j.Block, j.Depth) }

// Writes reports whether it writes.
func (j Job) Writes() bool { return j.RW == "randwrite" || j.RW == "write" }

// Span says over how much of a device and how long a job goes on.
type Span struct {
	Size    int64         // bytes
	Runtime time.Duration // counted
	Ramp    time.Duration // before, not counted
}

// Args is the command line, for an engine and its target such as "--ioengine=nbd", "--uri=…".
func (j Job) Args(s Span, engine ...string) []string {
	args := append([]string{"fio", "--name=bench"}, engine...)
	return append(args, "--rw="+j.RW, "--bs="+j.Block,
		fmt.Sprintf("--iodepth=%d", j.Depth), fmt.Sprintf("--size=%d", s.Size), "--randrepeat=1", "--time_based",
		fmt.Sprintf("--runtime=%dms", s.Runtime.Milliseconds()), fmt.Sprintf("--ramp_time=%dms", s.Ramp.Milliseconds()),
		fmt.Sprintf("--refill_buffers=%d", map[bool]int{true: 1}[j.Fresh]), "--output-format=json")
}

// Outcome is what fio measured of one run, without the ramp.
type Outcome struct {
	IOPS  float64
	Bytes float64       // a second
	Mean  time.Duration // of one request
	P99   time.Duration
}

// Parse reads what fio says about its only job.
func (j Job) Parse(text []byte) (Outcome, error) {
	type direction struct {
		IOPS    float64 `json:"iops"`
		Bytes   float64 `json:"bw_bytes"`
		Latency struct {
			Mean float64            `json:"mean"`
			At   map[string]float64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	var doc struct {
		Jobs []struct {
			Error int       `json:"error"`
			Read  direction `json:"read"`
			Write direction `json:"write"`
		} `json:"jobs"`
	}
	// An engine may say a line of its own before.
	if err := json.Unmarshal(text[max(bytes.IndexByte(text, '{'), 0):], &doc); err != nil {
		return Outcome{}, fmt.Errorf("read fio's answer: %w", err)
	}
	if len(doc.Jobs) != 1 {
		return Outcome{}, fmt.Errorf("read fio's answer: it speaks of %d jobs and not of one", len(doc.Jobs))
	}
	if e := doc.Jobs[0].Error; e != 0 {
		return Outcome{}, fmt.Errorf("fio's I/O failed with error %d", e)
	}
	d := &doc.Jobs[0].Read
	if j.Writes() {
		d = &doc.Jobs[0].Write
	}
	if d.IOPS <= 0 {
		return Outcome{}, errors.New("fio has done no I/O")
	}
	return Outcome{
		IOPS: d.IOPS, Bytes: d.Bytes, Mean: time.Duration(d.Latency.Mean), P99: time.Duration(d.Latency.At["99.000000"]),
	}, nil
}
