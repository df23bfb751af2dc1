// Command bench measures what an application sees of Flotilla, beside a plain NBD server on the same machine.
//
// It runs real agents of one program (-program) on the loopback, set up by the command line as a user would, and fio with
// ioengine=nbd over a Unix socket against them and against `nbdkit file` in turn. State directories, journals and all
// backing files are on tmpfs, so that no disk hides the cost of the software. There are two clusters:
//
//	alone       one agent; its volume has no component to go to, so that writes end on the source and in the bitmap
//	replicated  a primary, three components and a secondary: async, first copy whole before anything is measured
//
// A row is a fio job. It is measured in pairs: the same job against nbdkit and against a volume, one after the other,
// the first of them in turn; the row's ratio is the median of the pairs' ratios, so that what else happens on the machine
// hits both. After each run of a replicated row everything must be applied, and source and target are compared byte
// by byte: a wrong copy is an error and not a figure. The cluster that is not measured is not running. One row, log/…, compares
// with no peer but a volume with its activity log with the same without.
//
//	main.go     flags, and the order of things
//	tools.go    programs that must be there, places, ports
//	process.go  one child process: its output, its end, what it has used
//	agents.go   a cluster of agents
//	volume.go   one volume under test: what is waited for before and after a run
//	peer.go     nbdkit
//	fio.go      jobs, and what fio says of them
//	rows.go     the rows, and how one is measured
//	logged.go   those of the activity log
//	report.go   the table and the JSON lines
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// options are the command line's.
type options struct {
	program  string        // flotilla
	temp     string        // directory on tmpfs
	json     string        // file of JSON lines; none when empty
	rows     string        // which to run
	size     int64         // bytes of a volume
	pairs    int           // of runs, for each row
	runtime  time.Duration // of a run
	ramp     time.Duration // before it, not counted
	profiles string        // directory of CPU and allocation profiles; none when empty
	keepLogs bool
}

func main() {
	// Children outlive nothing: whatever ends this program ends them, see startProcess.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	o, err := parse(os.Args[1:], os.Stderr)
	if err == nil {
		err = run(ctx, o, os.Stdout)
	}
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case interrupted:
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything was taken away")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parse reads the command line.
func parse(args []string, w io.Writer) (options, error) {
	o := options{json: os.Getenv("BENCH_JSON")}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(w)
	var quick bool
	var sizeMiB int64
	f.StringVar(&o.program, "program", "bin/flotilla", "the program under test")
	f.StringVar(&o.temp, "temp", "/dev/shm", "a directory on tmpfs")
	f.StringVar(&o.rows, "rows", "", "run only rows whose name contains one of these, separated by commas")
	f.IntVar(&o.pairs, "pairs", 5, "interleaved pairs of runs of each row")
	f.DurationVar(&o.runtime, "runtime", 4*time.Second, "length of a run")
	f.DurationVar(&o.ramp, "ramp", time.Second, "time before each run that does not count")
	f.Int64Var(&sizeMiB, "size", 512, "size of a volume in MiB")
	f.BoolVar(&quick, "quick", false, "two short pairs of each row on a small volume: whether it works, not how fast")
	f.StringVar(&o.profiles, "profiles", "", "directory for profiles of the agents, taken in one more run after each row")
	f.BoolVar(&o.keepLogs, "logs", false, "print the agents' logs at the end")
	if err := f.Parse(args); err != nil {
		return o, flag.ErrHelp // it has printed what is wrong
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("argument %q: only flags are known, see -h", f.Arg(0))
	}
	if quick {
		o.pairs, o.runtime, o.ramp, sizeMiB = 2, time.Second, 200*time.Millisecond, 128
	}
	o.size = sizeMiB << 20
	switch {
	case o.pairs < 1:
		return o, fmt.Errorf("-pairs %d: at least 1", o.pairs)
	case o.runtime < time.Second || o.ramp < 0:
		return o, fmt.Errorf("-runtime %v, -ramp %v: a run takes at least a second, and a ramp none", o.runtime, o.ramp)
	case sizeMiB < 64 || sizeMiB > 16<<10:
		return o, fmt.Errorf("-size %d: from 64 to 16384 MiB", sizeMiB)
	}
	return o, nil
}

// run measures all rows and reports them. Whatever it started has ended, and is gone, when it returns.
func run(ctx context.Context, o options, w io.Writer) (err error) {
	rows, err := choose(o.rows)
	if err != nil {
		return err
	}
	if err := checkTools(ctx, o); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.temp, "flotilla-bench-")
	if err != nil {
		return fmt.Errorf("make a directory on tmpfs: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rep, err := newReport(w, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rep.close()) }()
	rep.head(ctx)
	for _, kind := range []clusterKind{alone, replicated} {
		if err := measureCluster(ctx, o, dir, kind, rows, rep); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
	}
	if err := measureLogged(ctx, o, dir, rows, rep); err != nil {
		return fmt.Errorf("%s: %w", loggedName, err)
	}
	rep.foot()
	return ctx.Err()
}

// choose returns the rows whose name contains one of the words.
func choose(words string) ([]row, error) {
	if words == "" {
		return allRows, nil
	}
	var out []row
	for _, r := range allRows {
		for _, word := range strings.Split(words, ",") {
			if strings.Contains(r.name(), strings.TrimSpace(word)) {
				out = append(out, r)
				break
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("-rows %q: no row has such a name; there are %s", words, rowNames())
	}
	return out, nil
}
