package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

// insideFlag is the first argument of this program inside of the virtual machine; the second is the file of its specification.
const insideFlag = "-inside"

// specification is what one boot does.
type specification struct {
	Program, Dir string
	Results      string // file
	Contents     map[string]string
	Scene        string
	Tasks        [][2]string // name of a row, number of a pair
	Size         int64
	Runtime      time.Duration
	Linked       time.Duration
	Ramp         time.Duration
	Threads      int
	Within       time.Duration // bounds it
}

// measured is what one run came to.
type measured struct {
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Taken  float64 `json:"taken,omitempty"`  // pages: MB/s as the application saw it, without the wait until all is on the target
	Link   float64 `json:"link,omitempty"`   // pages: MB/s on the link
	Folded float64 `json:"folded,omitempty"` // pages: part of what was written that needed not be sent
}

// pair is one run of each side.
type pair struct {
	Own  measured `json:"own"`
	Peer measured `json:"peer"`
}

// result is a pair, or why there is none; a line of the results.
type result struct {
	Row   string `json:"row,omitempty"`
	Pair  pair   `json:"pair"`
	Costs *costs `json:"costs,omitempty"` // first of all
	Error string `json:"error,omitempty"`
	Done  bool   `json:"done,omitempty"`
}

// readResults reads what a boot left, and the machine's costs, nil when it did not get that far. Pairs that were measured count also
// when something failed after them.
func readResults(path string) (out map[string][]pair, there *costs, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("the virtual machine left no results: %w", err)
	}
	defer f.Close()
	out = map[string][]pair{}
	for d := json.NewDecoder(f); ; {
		var r result
		if err := d.Decode(&r); err != nil {
			return out, there, fmt.Errorf("the virtual machine ended before it was done (%w)", err)
		}
		switch {
		case r.Error != "":
			return out, there, errors.New(r.Error)
		case r.Done:
			return out, there, nil
		case r.Costs != nil:
			there = r.Costs
			continue
		}
		out[r.Row] = append(out[r.Row], r.Pair)
	}
}

// inside measures, in the virtual machine.
func inside(file string) {
	text, err := os.ReadFile(file)
	var s specification
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	f, err := os.Create(s.Results)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	out := json.NewEncoder(f)
	if err := measure(s, func(r result) error { return out.Encode(r) }); err != nil {
		_ = out.Encode(result{Error: err.Error()}) // whoever reads finds out that the end is missing
		return
	}
	_ = out.Encode(result{Done: true})
}

// measure runs the tasks.
func measure(s specification, tell func(result) error) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.Within)
	defer cancel()
	c, err := measureCosts()
	if err == nil {
		err = tell(result{Costs: &c})
	}
	if err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	w, err := newWorld(ctx, s, fail)
	defer func() {
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", err, cause)
		}
		err = errors.Join(err, w.close())
	}()
	if err != nil {
		return err
	}
	for _, t := range s.Tasks {
		r := rowNamed(t[0])
		n, err := strconv.Atoi(t[1])
		if r == nil || err != nil {
			return fmt.Errorf("task %q is not known", t)
		}
		var p pair
		steps := []func() error{
			func() (err error) { p.Peer, err = w.run(r, r.peer); return err },
			func() (err error) { p.Own, err = w.run(r, r.own); return err },
		}
		if n%2 == 1 {
			steps[0], steps[1] = steps[1], steps[0]
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return fmt.Errorf("row %s: %w", r.name, err)
			}
		}
		say("%s: own %+v, peer %+v, ratio %.3f", r.name, p.Own, p.Peer, p.Own.Value/p.Peer.Value)
		if err := tell(result{Row: r.name, Pair: p}); err != nil {
			return err
		}
	}
	return nil
}

func say(format string, args ...any) {
	fmt.Printf("%s "+format+"\n", append([]any{time.Now().Format("15:04:05.000")}, args...)...)
}
