// Command benchvm measures volumes as block devices, beside `nbdkit file` with nbd-client and beside DRBD, in one kernel.
//
// It boots User Mode Linux (package vm): one processor, this machine's files, a kernel with nbd, DRBD and netem; or, with -kernel
// qemu, a distribution's kernel with two processors, which without KVM is much slower than all that is measured. A row compares
// two sides under one load; its runs are interleaved in pairs, the first of a pair in turn, in one boot, and what counts is the
// median of the pairs' ratios: figures of different boots are not compared. While fio measures a side, the processes of the others
// are stopped. After each run source and target are compared byte by byte: a wrong copy is an error and not a figure.
//
// The sides:
//
//	nbdkit  `nbdkit file` on a file in memory, /dev/nbdX by nbd-client
//	alone   one agent, the same kind of file, attached as /dev/nbdX; nothing is replicated
//	file    as alone, replicated async to the agents below, from a file to a file
//	async, sync   ram disks, replicated: the primary's agent here; at another site (a network namespace) two agents, both of them
//	        components and one the secondary; all journals in memory
//	drbd-a, drbd-c   two ram disks and one kernel that replicates to itself over the loopback, protocol A or C
//
// What is between the sites is shaped alike: for ours both ends of the only link (veth) between the sites, for DRBD the loopback,
// as it does not work in a network namespace. So DRBD and the primary each send a write once over the shaped link; second copy and
// target are at the other site. A delay counts for each direction. DRBD's answers share the loopback's rate with its data, ours do not.
//
// Pages are those of a database, written in requests of a given length at random places. "made" ones are package pages', which nothing
// compresses much; "sqlite" ones are of a database that SQLite makes here, of rows with two indexes. Their rate is what was written by the time
// until all of it is on the target, and so a queue does not count.
//
//	main.go, report.go         this machine: flags, boots, the table
//	rows.go                    what is compared, and how that is put into boots
//	pagesfile.go               contents
//	inside.go                  in the virtual machine: the runs
//	world.go                   the sides there; ours.go, drbd.go, nbdkit.go
//	load.go                    fio, and writers of pages
//	costs.go                   what system calls cost there and here
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"flotilla/internal/vm"
)

// options are the command line's.
type options struct {
	program string
	kernel  string
	temp    string
	json    string
	rows    string
	pages   string // file of a real database, in place of the one that is made
	pairs   int
	runtime time.Duration // of a run
	linked  time.Duration // of a run of pages over a slow link
	ramp    time.Duration
	size    int64 // bytes of a volume
	budget  time.Duration
	logs    bool
	threads int // nbdkit's, 0 for its default
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == insideFlag {
		inside(os.Args[2])
		return
	}
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
		fmt.Fprintln(os.Stderr, "benchvm: interrupted; everything was taken away:", err)
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "benchvm:", err)
		os.Exit(1)
	}
}

// parse reads the command line.
func parse(args []string, w io.Writer) (options, error) {
	o := options{json: os.Getenv("BENCHVM_JSON")}
	f := flag.NewFlagSet("benchvm", flag.ContinueOnError)
	f.SetOutput(w)
	var sizeMiB int64
	var quick bool
	f.StringVar(&o.program, "program", "bin/flotilla", "the program under test")
	f.StringVar(&o.kernel, "kernel", "uml", "what to boot: uml, or qemu with a distribution's kernel, as the directory QEMU_KERNEL has it")
	f.StringVar(&o.temp, "temp", os.TempDir(), "a directory with a short path, not below /dev: contents and logs are there; what is measured is in the machine's memory")
	f.StringVar(&o.json, "json", o.json, "file of JSON lines")
	f.StringVar(&o.rows, "rows", "", "run only rows whose name contains one of these, separated by commas: "+names())
	f.StringVar(&o.pages, "pages", "", "a file of pages of 8 KiB, such as a database's, in place of SQLite's that are made here")
	f.IntVar(&o.pairs, "pairs", 5, "interleaved pairs of runs of each row")
	f.DurationVar(&o.runtime, "runtime", 5*time.Second, "length of a run")
	f.DurationVar(&o.linked, "link-runtime", 30*time.Second, "length of a run over a link of limited rate: buffers hide the first seconds")
	f.DurationVar(&o.ramp, "ramp", time.Second, "time before each run of fio that does not count")
	f.Int64Var(&sizeMiB, "size", 256, "size of a volume in MiB")
	f.DurationVar(&o.budget, "boot", 200*time.Second, "what the runs of one boot may take; a longer row takes several")
	f.IntVar(&o.threads, "nbdkit-threads", 0, "nbdkit's --threads; 0 for its default")
	f.BoolVar(&o.logs, "logs", false, "print what each machine said")
	f.BoolVar(&quick, "quick", false, "one short pair of each row: whether it works, not how fast")
	if err := f.Parse(args); err != nil {
		return o, flag.ErrHelp // it has printed what is wrong
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("argument %q: only flags are known, see -h", f.Arg(0))
	}
	if quick {
		o.pairs, o.runtime, o.linked, o.ramp, sizeMiB = 1, time.Second, 5*time.Second, 0, 64
	}
	o.size = sizeMiB << 20
	switch {
	case o.pairs < 1 || o.pairs > 100:
		return o, fmt.Errorf("-pairs %d: from 1 to 100", o.pairs)
	case o.runtime < time.Second || o.linked < time.Second || o.ramp < 0 || o.budget < 20*time.Second:
		return o, fmt.Errorf("-runtime %v, -link-runtime %v, -ramp %v, -boot %v: at least 1 s, 1 s, nothing and 20 s", o.runtime, o.linked, o.ramp, o.budget)
	case strings.HasPrefix(o.temp, "/dev/") || strings.ContainsAny(o.temp, " \t"):
		return o, fmt.Errorf("-temp %q: not below /dev, which the machine has of its own, and without spaces", o.temp)
	case sizeMiB < 64 || sizeMiB > 512:
		return o, fmt.Errorf("-size %d: from 64 to 512 MiB", sizeMiB)
	}
	return o, nil
}

// tools are the programs that are needed, with their Debian packages.
var tools = [][2]string{
	{"fio", "fio"}, {"nbdkit", "nbdkit"}, {"nbd-client", "nbd-client"}, {drbdsetup, "drbd-utils"}, {"drbdmeta", "drbd-utils"},
	{"busybox", "busybox-static"}, {"ip", "iproute2"}, {"tc", "iproute2"}, {"python3", "python3"},
}

func checkTools(o options) error {
	var errs []error
	if os.Getuid() != 0 {
		errs = append(errs, errors.New("the virtual machine's root is this machine's: run it as root"))
	}
	for _, t := range tools {
		if _, err := exec.LookPath(t[0]); err != nil {
			errs = append(errs, fmt.Errorf("%s is missing: on Debian, apt-get install %s", t[0], t[1]))
		}
	}
	if _, err := exec.LookPath(o.program); err != nil {
		errs = append(errs, fmt.Errorf("-program %s: %w; `make build` makes it", o.program, err))
	}
	return errors.Join(errs...)
}

// run boots as often as need be, and reports.
func run(ctx context.Context, o options, w io.Writer) (err error) {
	rows, err := choose(o.rows)
	if err != nil {
		return err
	}
	if err := checkTools(o); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.temp, "flotilla-benchvm-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	k, err := vm.Find(o.kernel, dir)
	if err != nil {
		return err
	}
	if o.program, err = filepath.Abs(o.program); err != nil {
		return err
	}
	rep, err := newReport(w, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rep.close()) }()
	contents, err := makeContents(ctx, o, dir, rows)
	if err != nil {
		return err
	}
	rep.head(o, k.Name)
	here, err := measureCosts()
	if err != nil {
		return err
	}
	rep.say("  here %v", here)
	results := map[string][]pair{}
	for i, b := range plan(o, rows) {
		found, failure := boot(ctx, o, k, filepath.Join(dir, fmt.Sprint(i)), b, contents, rep)
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), failure)
		}
		for name, pairs := range found {
			results[name] = append(results[name], pairs...)
		}
		if failure != nil { // the other boots are measured all the same
			fmt.Fprintf(w, "  a boot of %s failed: %v\n", b.scene, failure)
			err = errors.Join(err, failure)
		}
	}
	for _, r := range rows {
		rep.row(r, results[r.name])
	}
	rep.foot()
	return err
}

// bootTime is what a machine may take beyond its runs: most of it only where others use this one. Slower kernels get more.
const bootTime = 4 * time.Minute

// boot runs what is planned for one machine.
func boot(ctx context.Context, o options, k *vm.Kernel, dir string, b bootPlan, contents map[string]string, rep *report) (map[string][]pair, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // what is left then goes with the directory above
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	within := b.estimate + bootTime*time.Duration(k.Slower)
	spec := &specification{
		Program: o.program, Dir: filepath.Join(dir, "work"), Results: filepath.Join(dir, "results"), Contents: contents, Scene: b.scene,
		Size: o.size, Runtime: o.runtime, Linked: o.linked, Ramp: o.ramp, Threads: o.threads, Within: within - 15*time.Second,
	}
	for _, t := range b.tasks {
		spec.Tasks = append(spec.Tasks, [2]string{t.row.name, fmt.Sprint(t.pair)})
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "specification")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	memory := 1024 + int(o.size>>20)*6
	m := vm.Machine{
		Kernel: k, Dir: dir, Memory: memory + 1536, Work: 1536 + int(o.size>>20)*2, Tmpfs: []string{"/run", "/var/lib/drbd"},
		Modules: []string{
			"nbd nbds_max=4", "veth", "sch_tbf", "sch_netem",
			fmt.Sprintf("brd rd_nr=%d rd_size=%d", ramDisks, (o.size+ramExtra)>>10),
			"drbd minor_count=4",
		},
		Program: []string{self, insideFlag, file},
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	began := time.Now()
	runErr := m.Run(ctx)
	rep.say("  boot for %s: %d runs in %v; load %s", b.scene, 2*len(b.tasks), time.Since(began).Round(time.Second), machineLoad())
	found, there, err := readResults(spec.Results)
	if there != nil {
		rep.say("  there %v", there)
	}
	if o.logs {
		rep.say("%s", m.Said(20000))
	}
	if err == nil && runErr != nil {
		err = runErr
	}
	if err != nil && !o.logs {
		err = fmt.Errorf("%w\n%s", err, m.Said(3000))
	}
	return found, err
}

// choose returns the rows whose name contains one of the words.
func choose(words string) ([]*row, error) {
	var out []*row
	for i := range allRows {
		r := &allRows[i]
		if slices.ContainsFunc(strings.Split(words, ","), func(w string) bool { return strings.Contains(r.name, strings.TrimSpace(w)) }) {
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("-rows %q: no row has such a name; there are %s", words, names())
	}
	return out, nil
}
