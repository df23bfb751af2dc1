// Command measure shows, with real processes, what a cluster promises about time.
//
//	kill-async, kill-sync  five components under a steady load of random 4k writes; each in turn is killed (SIGKILL), declared
//	                       lost, started again and admitted as new. No write fails; how long do writes stall?
//	takeover               the component that owns most dies. How long until what it held is held twice again?
//	cut                    three primaries under load, a thousand cuts. How long does each primary stand still?
//	scale                  components behind links of 50 Mbit/s. Do twice as many carry twice as much?
//	sparse                 a volume of 1 TiB with 1 GiB of data. How long is its first copy, and what does it read and send?
//	resume                 a process dies at each tenth of a copy. How much is read twice?
//	link                   a primary behind a link of 100 Mbit/s. How much more does its application write than the link carries?
//	far                    a primary that is 5 ms away. How many writes does it have answered, one at a time in async, many in sync?
//
// Latency is measured by an NBD client on the primary's Unix socket, from the moment at which a write was *due* to its reply: the
// schedule heeds no replies, so that a stall counts for every write that it delays and not only for the first. Quantiles are
// exact, of all writes (nearest rank). A figure's verdict is that of the median of the runs; what must never happen is judged by the
// worst run. When the writes have ended, source and target are compared byte by byte: a wrong copy is an error and not a figure.
//
// State directories, journals and volumes are on tmpfs: a disk is not what is measured. Nothing is left behind, however it
// ends. `make measure` runs it; the exit code is 1 when something failed, and 0 when a figure missed its aim.
//
//	main.go      flags, and the order of things
//	rig.go       a cluster, and its volumes
//	same.go      the comparison at the end
//	load.go      writers: on a schedule, or as fast as they can; pages.go with pages of a database
//	watch.go     what the captain says, as a timeline
//	kill.go, takeover.go, cut.go, scale.go, sparse.go, resume.go, link.go, far.go   the measurements
//	stats.go     quantiles and medians
//	report.go    the table and the JSON lines
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"flotilla/internal/pages"

	"golang.org/x/sys/unix"
)

// options are the command line's.
type options struct {
	program string // flotilla
	temp    string // directory on tmpfs
	json    string // file of JSON lines; none when empty
	only    string
	runs    int
	logs    bool

	rate     int           // writes a second of kill and takeover
	duration time.Duration // of kill
	kills    int           // of takeover
	cuts     int
	period   time.Duration // of cut
	window   time.Duration // of scale
	warm     time.Duration // before it
	counts   []int         // of components, for scale
	data     int           // of sparse, MiB
	copy     int           // of resume, MiB
	link     int           // Mbit/s of a component, for scale
	site     int           // Mbit/s of the primary, for link
	pages    []byte        // what link writes
}

// measurement is one of the things that are measured.
type measurement struct {
	name string
	run  func(ctx context.Context, o options, rep *report, name string) ([]figure, error)
}

var all = []measurement{
	{"kill-async", killAsync}, {"kill-sync", killSync}, {"takeover", takeover}, {"cut", cut}, {"scale", scale},
	{"sparse", sparse}, {"resume", resume}, {"link", link}, {"far", far},
}

func main() {
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
		fmt.Fprintln(os.Stderr, "measure: interrupted; everything was taken away")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

// parse reads the command line.
func parse(args []string, w io.Writer) (options, error) {
	o := options{json: os.Getenv("MEASURE_JSON")}
	f := flag.NewFlagSet("measure", flag.ContinueOnError)
	f.SetOutput(w)
	var quick bool
	counts, file := "", ""
	f.StringVar(&o.program, "program", "bin/flotilla", "the program that is measured")
	f.StringVar(&o.temp, "temp", "/dev/shm", "a directory on tmpfs")
	f.StringVar(&o.only, "only", "", "measure only what has one of these words in its name, separated by commas")
	f.IntVar(&o.runs, "runs", 1, "runs of each measurement, on a new cluster each; medians are reported")
	f.BoolVar(&o.logs, "logs", false, "print the ends of the agents' logs when something fails")
	f.IntVar(&o.rate, "rate", 1000, "kill, takeover: writes a second")
	f.DurationVar(&o.duration, "duration", time.Minute, "kill: how long components are killed and return")
	f.IntVar(&o.kills, "kills", 5, "takeover: how many owners die, one after the other")
	f.IntVar(&o.cuts, "cuts", 1000, "cut: how many")
	f.DurationVar(&o.period, "period", 100*time.Millisecond, "cut: the group's period")
	f.DurationVar(&o.window, "window", 30*time.Second, "scale, link, far: how long the rate is measured")
	f.DurationVar(&o.warm, "warm", 15*time.Second, "scale: how long the queue is filled before")
	f.StringVar(&counts, "components", "2,4,8", "scale: numbers of components; the first is what the others are compared with")
	f.IntVar(&o.link, "link", 50, "scale: Mbit/s of each component's link, in each direction")
	f.IntVar(&o.data, "data", 1024, "sparse: MiB of data in the volume")
	f.IntVar(&o.copy, "copy", 200, "resume: MiB of each volume that is copied")
	f.IntVar(&o.site, "site-link", 100, "link: Mbit/s of the primary's link, in each direction; the volume is larger behind a faster one")
	f.StringVar(&file, "pages", "", "link: a file of pages of 8 KiB, such as a database's, that are written in place of made ones; its first 64 MiB count")
	f.BoolVar(&quick, "quick", false, "everything much shorter: whether it works, not how fast it is")
	if err := f.Parse(args); err != nil {
		return o, flag.ErrHelp // it has printed what is wrong
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("argument %q: only flags are known, see -h", f.Arg(0))
	}
	var err error
	if o.pages, err = pages.Of(file); err != nil {
		return o, err
	}
	if quick {
		o.duration, o.kills, o.cuts, o.window, o.warm = 5*time.Second, 1, 50, 5*time.Second, 5*time.Second
		o.data, o.copy = 64, 80
	}
	for _, word := range strings.Split(counts, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 2 || n > 64 {
			return o, fmt.Errorf("-components %q: numbers from 2 to 64, separated by commas", counts)
		}
		o.counts = append(o.counts, n)
	}
	switch {
	case o.runs < 1 || o.kills < 1 || o.cuts < 1:
		return o, fmt.Errorf("-runs %d, -kills %d, -cuts %d: at least 1", o.runs, o.kills, o.cuts)
	case o.rate < 1 || o.rate > 100_000:
		return o, fmt.Errorf("-rate %d: from 1 to 100000", o.rate)
	case o.duration < time.Second || o.window < time.Second || o.warm < 0:
		return o, fmt.Errorf("-duration %v, -window %v, -warm %v: at least a second, a second, and nothing", o.duration, o.window, o.warm)
	case o.period < 50*time.Millisecond || o.period > time.Minute:
		return o, fmt.Errorf("-period %v: from 50ms to 1m", o.period)
	case o.data < 1 || o.data > 1<<16 || o.copy < 10 || o.copy > 1<<16:
		return o, fmt.Errorf("-data %d, -copy %d: from 1 and from 10 to 65536 MiB", o.data, o.copy)
	case o.link < 1 || o.link > 10_000 || o.site < 1 || o.site > 10_000:
		return o, fmt.Errorf("-link %d, -site-link %d: from 1 to 10000 Mbit/s", o.link, o.site)
	}
	return o, nil
}

// choose returns the measurements whose name contains one of the words.
func choose(words string) ([]measurement, error) {
	var out []measurement
	for _, m := range all {
		if slices.ContainsFunc(strings.Split(words, ","), func(w string) bool { return strings.Contains(m.name, strings.TrimSpace(w)) }) {
			out = append(out, m)
		}
	}
	if len(out) == 0 {
		var names []string
		for _, m := range all {
			names = append(names, m.name)
		}
		return nil, fmt.Errorf("-only %q: no measurement has such a name; there are %s", words, strings.Join(names, ", "))
	}
	return out, nil
}

// run measures and reports. Whatever it started has ended, and is gone, when it returns.
func run(ctx context.Context, o options, w io.Writer) (err error) {
	chosen, err := choose(o.only)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(o.program); err != nil {
		return fmt.Errorf("-program %s: %w; `make build` makes it", o.program, err)
	}
	var st unix.Statfs_t
	switch err := unix.Statfs(o.temp, &st); {
	case err != nil:
		return fmt.Errorf("-temp %s: %w", o.temp, err)
	case st.Type != unix.TMPFS_MAGIC:
		return fmt.Errorf("-temp %s: it is not on tmpfs, so that a disk would be measured; give a directory on one", o.temp)
	}
	rep, err := newReport(w, o.json)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rep.close()) }()
	rep.head(o.runs)
	results := map[string][][]figure{}
	for _, m := range chosen {
		for i := range o.runs {
			name := fmt.Sprintf("%s/%d", m.name, i+1)
			rep.say("\n%s", name)
			figures, failure := m.run(ctx, o, rep, name)
			if ctx.Err() != nil {
				return errors.Join(failure, context.Cause(ctx))
			}
			if failure != nil { // the others are measured all the same
				rep.say("  %s failed: %v", name, failure)
				err = errors.Join(err, fmt.Errorf("%s: %w", name, failure))
				continue
			}
			results[m.name] = append(results[m.name], figures)
		}
	}
	rep.say("")
	for _, m := range chosen {
		rep.figures(results[m.name])
	}
	rep.say("\n%d aims missed; load at the end %s", rep.missed, machineLoad())
	return err
}
