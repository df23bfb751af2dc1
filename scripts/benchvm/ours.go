package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
)

// The sites' ends of the link between them, and where agents listen.
const (
	linkHere, linkThere   = "wan0", "wan1"
	addressHere           = "10.77.0.1"
	addressThere          = "10.77.0.2"
	firstPort, secondPort = ":7431", ":7432"
)

// patience is how long the agents bear not to run: they are stopped while another side has its runs of fio.
const patience = 30 * time.Second

// settings are those of every agent. Nobody is to be taken for lost on one slow processor either.
var settings = fmt.Sprintf("limits: {loss_after: %v}\n", patience)

// ours is a cluster, with one group and volume for each side.
type ours struct {
	ctx   context.Context
	fleet *fleet.Fleet
	there *fleet.Namespace // the other site; nil where there is none
	// volumes by the name of the side
	volumes map[string]*volume
	pids    []int
	shaped  bool
	stopped bool
}

type volume struct {
	source, target string // target is empty when it is not replicated
	size           int64
}

func export(who string) string { return who + "/data" }

// startAlone starts one agent with a volume on a file.
func startAlone(ctx context.Context, s specification, fail context.CancelCauseFunc) (*ours, error) {
	o := &ours{ctx: ctx, volumes: map[string]*volume{}}
	dir := filepath.Join(s.Dir, "alone")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	o.fleet = fleet.New(s.Program, dir, fail)
	o.fleet.Patience = waitTime / fleet.StartTime
	if _, err := o.fleet.Add(fleet.Member{Name: "a", Roles: "primary, secondary", Settings: settings}); err != nil {
		return nil, err
	}
	if err := o.assemble(); err != nil {
		return nil, err
	}
	return o, o.addFiles(s, dir, "alone", "a", "a")
}

// startSites starts the two sites, with a volume for each of the names: "file" on files, others on a pair of ram disks each.
func startSites(ctx context.Context, s specification, fail context.CancelCauseFunc, names ...string) (*ours, error) {
	o := &ours{ctx: ctx, volumes: map[string]*volume{}}
	dir := filepath.Join(s.Dir, "sites")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	o.fleet = fleet.New(s.Program, dir, fail)
	o.fleet.Patience = waitTime / fleet.StartTime
	var err error
	if o.there, err = o.fleet.Spawn.NewNamespace(); err != nil {
		return nil, err
	}
	if err := o.connect(ctx); err != nil {
		return nil, err
	}
	for _, m := range []fleet.Member{
		{Name: "primary", Roles: "primary", Address: addressHere + firstPort},
		{Name: "one", Roles: "backup, secondary", Address: addressThere + firstPort, Namespace: o.there},
		{Name: "two", Roles: "backup", Address: addressThere + secondPort, Namespace: o.there},
	} {
		m.Settings = settings
		if _, err := o.fleet.Add(m); err != nil {
			return nil, err
		}
	}
	if err := o.assemble(); err != nil {
		return nil, err
	}
	for i, who := range names {
		if who == "file" {
			err = o.addFiles(s, dir, who, "primary", "one")
		} else {
			v := &volume{source: ram(2 + 2*i), target: ram(3 + 2*i), size: s.Size + ramExtra}
			if err = fill(v.source, s.Size); err == nil {
				err = o.add(who, v, "primary", "one")
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return o, nil
}

// connect makes the link between the sites.
func (o *ours) connect(ctx context.Context) error {
	for _, c := range []string{
		"ip link add " + linkHere + " type veth peer name " + linkThere + " netns " + o.there.Path(),
		"ip addr add " + addressHere + "/24 dev " + linkHere,
		"ip link set " + linkHere + " up",
	} {
		if err := words(ctx, c); err != nil {
			return err
		}
	}
	return errors.Join(o.atThere("ip link set lo up"), o.atThere("ip addr add "+addressThere+"/24 dev "+linkThere), o.atThere("ip link set "+linkThere+" up"))
}

// atThere runs a program at the other site.
func (o *ours) atThere(line string) error {
	w := strings.Fields(line)
	_, err := o.fleet.Spawn.Run(o.ctx, o.there, w[0], w[1:]...)
	return err
}

func (o *ours) assemble() error {
	if err := o.fleet.Assemble(o.ctx, func(*fleet.Host) {}); err != nil {
		return err
	}
	for _, h := range o.fleet.Hosts {
		text, err := os.ReadFile(filepath.Join(h.Dir, "lock"))
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return err
		}
		o.pids = append(o.pids, pid)
	}
	return nil
}

// addFiles makes a volume on a filled file.
func (o *ours) addFiles(s specification, dir, who, primary, secondary string) error {
	v := &volume{source: filepath.Join(dir, "source.img"), target: filepath.Join(dir, "target.img"), size: s.Size}
	if err := fill(v.source, s.Size); err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(v.target, nil, 0o600), os.Truncate(v.target, s.Size)); err != nil {
		return err
	}
	return o.add(who, v, primary, secondary)
}

// add makes a group with a volume, waits for its first copy where there are components, and attaches it.
func (o *ours) add(who string, v *volume, primary, secondary string) error {
	mode := "async"
	if who == "sync" {
		mode = who
	}
	config := o.fleet.Hosts[0].Config
	if _, err := o.fleet.Command(o.ctx, "group", "create", who, "--mode", mode, "--config", config); err != nil {
		return err
	}
	_, err := o.fleet.Command(o.ctx, "volume", "create", export(who), "--primary", primary, "--source", v.source, "--secondary", secondary, "--target", v.target, "--config", config)
	if err != nil {
		return err
	}
	if o.there == nil {
		v.target = ""
	}
	o.volumes[who] = v
	err = fleet.Until(o.ctx, waitTime, "volume "+export(who)+" is copied", func(ctx context.Context) (bool, error) {
		s, err := o.fleet.Hosts[0].Status(ctx)
		if s == nil || err != nil {
			return false, err
		}
		g := s.Group(who)
		return g != nil && len(g.Volumes) == 1 && (v.target == "" || g.Volumes[0].Copied), nil
	})
	if err != nil {
		return err
	}
	return fleet.Until(o.ctx, waitTime, "volume "+export(who)+" is attached", func(ctx context.Context) (bool, error) {
		_, err := o.fleet.Command(ctx, "volume", "attach", export(who), "--timeout", "10m", "--config", config)
		if err != nil && strings.Contains(err.Error(), "not served here") {
			return false, nil
		}
		return err == nil, err
	})
}

// begin has the agents run again, and waits until they hear each other.
func (o *ours) begin(ctx context.Context, who, network string) error {
	if err := o.resume(); err != nil {
		return err
	}
	err := fleet.Until(ctx, waitTime, "the agents hear each other", func(ctx context.Context) (bool, error) {
		s, err := o.fleet.Hosts[0].Status(ctx)
		return s != nil && o.hears(s), err
	})
	if err != nil {
		return err
	}
	if o.there == nil {
		return nil
	}
	if err := o.settle(ctx, who); err != nil || network == unshaped {
		return err
	}
	o.shaped = true
	return errors.Join(words(ctx, "tc qdisc add dev "+linkHere+" root "+shapes[network]), o.atThere("tc qdisc add dev "+linkThere+" root "+shapes[network]))
}

// fresh is how long ago an agent was heard that is well, in seconds: it is pinged ten times in its patience.
const fresh = 5.0

func (o *ours) hears(s *api.Status) bool {
	for _, a := range s.Agents {
		if a.HeardSeconds == nil || *a.HeardSeconds > fresh {
			return false
		}
	}
	return len(s.Agents) == len(o.fleet.Hosts)
}

func (o *ours) end(ctx context.Context, _ string) error {
	var err error
	if o.shaped {
		err = errors.Join(words(ctx, "tc qdisc del dev "+linkHere+" root"), o.atThere("tc qdisc del dev "+linkThere+" root"))
		o.shaped = false
	}
	return err
}

// stop keeps the processes from running.
func (o *ours) stop() error {
	o.stopped = true
	return signalAll(o.pids, syscall.SIGSTOP)
}

// resume lets them run again.
func (o *ours) resume() error {
	if !o.stopped {
		return nil
	}
	o.stopped = false
	return signalAll(o.pids, syscall.SIGCONT)
}

func (o *ours) device(who string) string { return "/dev/flotilla/" + export(who) }

func (o *ours) settle(ctx context.Context, who string) error {
	if o.there == nil {
		return nil
	}
	return o.fleet.Hosts[0].Applied(ctx, who)
}

func (o *ours) same(ctx context.Context, who string) error {
	v := o.volumes[who]
	if v.target == "" {
		return nil
	}
	return sameBytes(ctx, v.source, v.target, v.size)
}

func (o *ours) link() (int64, error) {
	return counter("/sys/class/net", linkHere, "statistics/tx_bytes")
}

func (o *ours) folded(ctx context.Context, who string) (folded int64, err error) {
	err = fleet.Until(ctx, waitTime, "the captain answers", func(ctx context.Context) (bool, error) {
		s, err := o.fleet.Hosts[0].Status(ctx)
		if s == nil || err != nil {
			return false, err
		}
		g := s.Group(who)
		if g == nil || len(g.Primaries) != 1 {
			return false, fmt.Errorf("group %s has no primary", who)
		}
		folded = g.Primaries[0].Folded
		return true, nil
	})
	return folded, err
}

func (o *ours) close() error {
	err := o.resume()
	for who := range o.volumes {
		_, detachErr := o.fleet.Command(o.ctx, "volume", "detach", export(who), "--force", "--config", o.fleet.Hosts[0].Config)
		err = errors.Join(err, detachErr)
	}
	return errors.Join(err, o.fleet.Close(), o.there.Close())
}
