package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// job is what fio does.
type job struct {
	rw    string // fio's word: randwrite, randread, write, read
	block string // such as 4k
	depth int
	fresh bool // every write has new random data; otherwise fio writes the same few buffers again and again
}

func (j job) name() string { return fmt.Sprintf("%s-%s-qd%d", j.rw, j.block, j.depth) }

func (j job) writes() bool { return j.rw == "randwrite" || j.rw == "write" }

// outcome is what fio measured of one run, without the ramp.
type outcome struct {
	iops    float64
	bytes   float64       // a second
	mean    time.Duration // of one request
	p99     time.Duration
	elapsed time.Duration // of the whole run, ramp included, on the wall
}

// runFio runs a job against an NBD URI.
func runFio(ctx context.Context, o options, j job, uri string) (outcome, error) {
	began := time.Now()
	text, err := once(ctx, "fio", "--name=bench", "--ioengine=nbd", "--uri="+uri, "--rw="+j.rw, "--bs="+j.block,
		fmt.Sprintf("--iodepth=%d", j.depth), fmt.Sprintf("--size=%d", o.size), "--randrepeat=1", "--time_based",
		fmt.Sprintf("--runtime=%dms", o.runtime.Milliseconds()), fmt.Sprintf("--ramp_time=%dms", o.ramp.Milliseconds()),
		fmt.Sprintf("--refill_buffers=%d", map[bool]int{true: 1}[j.fresh]), "--output-format=json")
	if err != nil {
		return outcome{}, err
	}
	out, err := parseFio([]byte(text), j.writes())
	out.elapsed = time.Since(began)
	return out, err
}

// parseFio reads what fio says about its only job.
func parseFio(text []byte, writes bool) (outcome, error) {
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
	// The engine says a line of its own before.
	if err := json.Unmarshal(text[max(bytes.IndexByte(text, '{'), 0):], &doc); err != nil {
		return outcome{}, fmt.Errorf("read fio's answer: %w", err)
	}
	if len(doc.Jobs) != 1 {
		return outcome{}, fmt.Errorf("read fio's answer: it speaks of %d jobs and not of one", len(doc.Jobs))
	}
	if e := doc.Jobs[0].Error; e != 0 {
		return outcome{}, fmt.Errorf("fio's I/O failed with error %d", e)
	}
	d := &doc.Jobs[0].Read
	if writes {
		d = &doc.Jobs[0].Write
	}
	if d.IOPS <= 0 {
		return outcome{}, errors.New("fio has done no I/O")
	}
	return outcome{
		iops: d.IOPS, bytes: d.Bytes, mean: time.Duration(d.Latency.Mean), p99: time.Duration(d.Latency.At["99.000000"]),
	}, nil
}
