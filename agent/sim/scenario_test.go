package sim

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"flotilla/agent/core"
	"flotilla/agent/core/cluster"

	"github.com/cockroachdb/datadriven"
)

// TestScenarios runs the scripts in testdata and compares what they print. With -rewrite it writes down what they print
// now; the oracle's checks and the script's own assertions fail them all the same. Above a ---- stand commands, a line
// each, and below it what they print:
//
//	cluster [components=3] [primaries=1] [volumes=1] [portions=1] [mode=async] [period=1s] [degrade=block] [copy=3ms] [seed=1]
//	        starts c1… (components), p1… (primaries) and s1 (secondary), and runs until the volumes v1… are copied.
//	        c1 is captain. degrade is how long a write waits before a sync group degrades; copy is how long the copy of an extent takes
//	write v1 0=A 5=B        one after the other, each to a block: 16 to a portion. Prints what the application is told
//	run 500ms [steps=…]     lets time pass and prints what happens of interest; steps=data, apply or cut tell more
//	run until=…             until a condition holds (acknowledged, held, committed, applied, copied, settled, promoted, equal:
//	                        targets and sources) or a line is printed that contains the text in (…)
//	kill c1 …, power-cut c1 … | all, restart c1 … | all
//	cut c1 p1, cut from=c1 to=p1, isolate c1, heal [c1 p1 | c1]     links
//	stall c1 for=2s         what it sends leaves only then
//	fill c1, free c1        its journal is full, or has room again
//	slow c1 times=100       its journal's disk is so many times as slow
//	journals limit=30000    the bytes that each journal takes from here on, as sets count them; 0 for no limit
//	suspend p1, unsuspend p1   as it does when its queue is at its limit, and once that is over
//	recover c1 p1 …         a generation without all others: the first one begins it; their agents are restarted
//	remove-primary p1       takes its volumes out of the group
//	on-degraded block       the operator changes what the group does when its writes can not be held; or async
//	promote
//	expect-loss             from here on both copies of something may be gone
//	show …                  view, sets, held, incarnations, points, waits, volumes, kept
//	assert …                a condition, or not-…
func TestScenarios(t *testing.T) {
	for _, path := range scripts(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			p := player{t: t}
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return p.play(t, d) })
			p.end(t)
		})
	}
}

func scripts(t *testing.T) []string {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("there are no scripts in testdata: %v", err)
	}
	return paths
}

// player runs one script.
type player struct {
	t       *testing.T
	mutants map[string]bool
	s       *scenario
}

// play runs the commands of one block, a line each, and returns what they print.
func (p *player) play(t testing.TB, d *datadriven.TestData) string {
	defer func() {
		if x := recover(); x != nil {
			d.Fatalf(t, "panic: %v\n%s", x, stack())
		}
	}()
	var said []string
	one := *d
	for _, line := range append([]string{""}, strings.Split(d.Input, "\n")...) {
		var err error
		if line != "" {
			one.Cmd, one.CmdArgs, err = datadriven.ParseLine(line)
		}
		if err == nil && (line != "" || len(said) == 0) {
			err = p.command(&one)
		}
		if p.s != nil {
			if lines := p.s.take(); lines != "" {
				said = append(said, lines)
			}
			err = cmp.Or(err, p.s.w.failure)
		}
		if err != nil {
			d.Fatalf(t, "%s: %v\n%s", one.Cmd, err, strings.Join(said, "\n"))
		}
	}
	return strings.Join(said, "\n")
}

// end checks once more what the oracle can.
func (p *player) end(t testing.TB) {
	if p.s == nil {
		return
	}
	if err := p.s.finish(); err != nil {
		t.Fatalf("at the end of the script: %v", err)
	}
}

func (p *player) cluster(d *datadriven.TestData) error {
	sh := shape{components: 3, primaries: 1, mode: cluster.Async}
	seed, volumes, portions, period, copying := uint64(1), 1, 1, time.Second, 3*time.Millisecond
	for _, a := range d.CmdArgs {
		if len(a.Vals) != 1 {
			return fmt.Errorf("cluster: %s wants one value", a.Key)
		}
		var err error
		var ok = true
		v := a.Vals[0]
		switch a.Key {
		case "components":
			sh.components, err = strconv.Atoi(v)
		case "primaries":
			sh.primaries, err = strconv.Atoi(v)
		case "volumes":
			volumes, err = strconv.Atoi(v)
		case "portions":
			portions, err = strconv.Atoi(v)
		case "mode":
			sh.mode, ok = cluster.ParseMode(v)
		case "period":
			period, err = time.ParseDuration(v)
		case "degrade":
			var after time.Duration
			after, err = time.ParseDuration(v)
			sh.contract = cluster.Contract{OnDegraded: cluster.AsyncDegraded, DegradeAfterMS: after.Milliseconds()}
		case "copy":
			copying, err = time.ParseDuration(v)
		case "seed":
			seed, err = strconv.ParseUint(v, 10, 64)
		default:
			ok = false
		}
		if err != nil || !ok {
			return fmt.Errorf("cluster: %s=%s is not understood: %v", a.Key, v, err)
		}
	}
	sh.period = period.Milliseconds()
	for range max(volumes, sh.primaries) {
		sh.sizes = append(sh.sizes, int64(portions)*portionSize)
	}
	cryptotest.SetGlobalRandom(p.t, seed) // Raft's elections draw from it
	var err error
	p.s, err = newScenario(Options{Seed: seed, Mutants: p.mutants}, sh, copying)
	return err
}

func (p *player) command(d *datadriven.TestData) error {
	s := p.s
	switch {
	case d.Cmd == "cluster":
		return p.cluster(d)
	case s == nil:
		return fmt.Errorf("a script begins with cluster")
	}
	switch d.Cmd {
	case "write":
		return p.write(d)
	case "run":
		return p.run(d)
	case "cut":
		return p.cut(d)
	case "recover":
		return p.recover(d)
	case "promote":
		s.w.promote(s.w.oracle.group(s.w.group))
	case "on-degraded":
		to, ok := cluster.BlockDegraded, false
		if len(d.CmdArgs) == 1 {
			to, ok = cluster.ParseOnDegraded(d.CmdArgs[0].Key)
		}
		if !ok {
			return fmt.Errorf("on-degraded wants block or async")
		}
		s.w.ask(func(n *core.Node) {
			n.Propose(cluster.Command{SetGroup: &cluster.SetGroup{Group: s.w.group, OnDegraded: &to}})
		})
	case "expect-loss":
		s.w.doubleLoss = true
	case "journals":
		d.ScanArgs(p.t, "limit", &s.w.journalLimit)
		for _, h := range s.w.hosts {
			if h.backup {
				h.tellJournal()
			}
		}
	case "show", "assert":
		for _, a := range d.CmdArgs {
			do := s.show
			if d.Cmd == "assert" {
				do = s.assert
			}
			if err := do(a.Key); err != nil {
				return err
			}
		}
	default:
		return p.fault(d)
	}
	return nil
}

// fault runs the commands that name hosts.
func (p *player) fault(d *datadriven.TestData) error {
	s := p.s
	var hosts []*host
	for _, a := range d.CmdArgs {
		if len(a.Vals) > 0 {
			continue
		}
		if a.Key == "all" {
			hosts = s.w.hosts
			continue
		}
		h, err := s.host(a.Key)
		if err != nil {
			return err
		}
		hosts = append(hosts, h)
	}
	if d.Cmd == "heal" {
		s.heal(hosts)
		return nil
	}
	for _, h := range hosts {
		var err error
		switch d.Cmd {
		case "kill":
			err = s.kill(h, false)
		case "power-cut":
			err = s.kill(h, true)
		case "restart":
			err = s.restart(h)
		case "suspend":
			h.do(func(n *core.Node) { n.Suspend(s.w.now, s.w.group) })
		case "unsuspend":
			h.do(func(n *core.Node) { n.Unsuspend(s.w.now, s.w.group) })
		case "remove-primary":
			s.w.takeOut(s.w.oracle.group(s.w.group), h)
		case "isolate":
			s.w.isolate(h, forever)
		case "fill":
			h.fullUntil = forever
		case "free":
			h.fullUntil = 0
		case "slow":
			h.diskUntil, h.journalSlow = forever, true
			d.ScanArgs(p.t, "times", &h.diskFactor)
		case "stall":
			var length time.Duration
			if length, err = duration(d, "for"); err == nil {
				s.w.standStill(h, length)
			}
		default:
			return fmt.Errorf("there is no command %q", d.Cmd)
		}
		if err != nil {
			return err
		}
	}
	if len(hosts) == 0 {
		return fmt.Errorf("%s wants the names of agents", d.Cmd)
	}
	return nil
}

// recover ends the survivors' processes, begins a generation on the first of them, and starts them again.
func (p *player) recover(d *datadriven.TestData) error {
	var hosts []*host
	for _, a := range d.CmdArgs {
		h, err := p.s.host(a.Key)
		if err != nil {
			return err
		}
		if h.node != nil {
			h.kill(false)
		}
		hosts = append(hosts, h)
	}
	if len(hosts) == 0 {
		return fmt.Errorf("recover wants the names of the survivors")
	}
	if err := p.s.w.recover(hosts[0], hosts); err != nil {
		return err
	}
	for _, h := range hosts {
		h.start()
	}
	return nil
}

func duration(d *datadriven.TestData, key string) (time.Duration, error) {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) == 1 {
			return time.ParseDuration(a.Vals[0])
		}
	}
	return 0, fmt.Errorf("%s wants %s=…", d.Cmd, key)
}

func (p *player) write(d *datadriven.TestData) error {
	if len(d.CmdArgs) < 2 {
		return fmt.Errorf("write wants a volume and block=label …")
	}
	for _, a := range d.CmdArgs[1:] {
		block, err := strconv.Atoi(a.Key)
		if err != nil || len(a.Vals) != 1 {
			return fmt.Errorf("write: %v is not block=label", a)
		}
		if err := p.s.write(d.CmdArgs[0].Key, block, a.Vals[0]); err != nil {
			return err
		}
	}
	return nil
}

func (p *player) run(d *datadriven.TestData) error {
	s := p.s
	clear(s.steps)
	began := s.w.now
	for _, a := range d.CmdArgs {
		if a.Key == "steps" {
			for _, v := range a.Vals {
				s.steps[v] = true
			}
		}
	}
	defer clear(s.steps)
	for _, a := range d.CmdArgs {
		switch {
		case a.Key == "steps":
		case a.Key == "until" && len(a.Vals) > 0:
			if err := s.until(strings.Join(a.Vals, ", ")); err != nil {
				return err
			}
			// Rounded, so that it says what kind of time passed, and not what the last tick was.
			if took := (s.w.now - began).Round(500 * time.Millisecond); took > 0 {
				s.say("(after about %v)", took)
			}
		default:
			t, err := time.ParseDuration(a.Key)
			if err != nil {
				return fmt.Errorf("run wants a time or until=…: %w", err)
			}
			s.w.runUntil(s.w.now + t)
		}
	}
	return nil
}

func (p *player) cut(d *datadriven.TestData) error {
	var hosts []*host
	oneWay := false
	for _, a := range d.CmdArgs {
		name := a.Key
		if len(a.Vals) == 1 {
			name, oneWay = a.Vals[0], true
		}
		h, err := p.s.host(name)
		if err != nil {
			return err
		}
		hosts = append(hosts, h)
	}
	if len(hosts) != 2 {
		return fmt.Errorf("cut wants two agents: cut c1 p1, or cut from=c1 to=p1")
	}
	p.s.w.cut(hosts[0], hosts[1], forever)
	if !oneWay {
		p.s.w.cut(hosts[1], hosts[0], forever)
	}
	return nil
}

// scenarioMutants are breaks of the core that a script must see, and not only the random runs.
var scenarioMutants = []struct{ script, mutant string }{
	{"01-life-of-a-write", "drop-mirror"},
	{"02-a-cut", "journal-not-synced"},
	{"04-loss-of-an-owner", "no-remirror"},
	{"08-captain-dies-before-commit", "commit-before-complete"},
	{"09-captain-dies-in-a-cut", "cut-without-pause"},
	{"11-both-copies-lost", "reuse-seqs"},
	{"12-power-cut-of-all", "target-not-flushed"},
	{"13-a-primary-comes-back", "broken-counts"},
	{"30-a-report-waits-for-the-disk", "seal-without-all"},
	{"31-a-survivor-falls-silent", "loss-unsettled"},
	{"29-a-seal-waits-for-second-copies", "seal-single-copy"},
	{"30-a-report-waits-for-the-disk", "report-while-storing"},
	{"17-late-writes-of-a-lost-owner", "target-takes-all"},
	{"18-a-revoked-primary", "revoked-accepted"},
	{"24-a-primary-is-taken-out", "removed-counts"},
	{"26-a-majority-is-gone", "generations-mix"},
	{"27-a-site-is-gone", "generations-mix"},
	{"32-a-sync-group-degrades", "degrade-unrecorded"},
	{"36-a-degradation-is-called-off", "synchronous-unheld"},
	{"35-two-primaries-degrade", "degrade-unrecorded"},
	{"33-promote-in-the-middle-of-a-resync", "broken-counts"},
	{"34-a-chain-that-fills-the-journals", "chain-without-room"},
	{"37-a-resync-goes-on", "kept-over-write"},
	{"38-promote-as-a-resync-ends", "taken-not-said"},
}

// failing is a testing.TB on which a script may fail without failing the test.
type failing struct {
	*testing.T
	failed string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
func (f *failing) Failed() bool { return f.failed != "" }

// TestScenariosSee proves that the scripts can fail.
func TestScenariosSee(t *testing.T) {
	if f := flag.Lookup("rewrite"); f != nil && f.Value.String() == "true" {
		t.Skip("a rewrite compares nothing")
	}
	for _, m := range scenarioMutants {
		t.Run(m.script+"/"+m.mutant, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", m.script+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			f := &failing{T: t}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				p := player{t: t, mutants: map[string]bool{m.mutant: true}}
				datadriven.RunTestFromStringAny(f, string(text), func(t testing.TB, d *datadriven.TestData) string { return p.play(t, d) })
				p.end(f)
			}()
			<-ended
			if f.failed == "" {
				t.Errorf("the script does not see the break %q", m.mutant)
			}
			t.Logf("%s", f.failed)
		})
	}
}
