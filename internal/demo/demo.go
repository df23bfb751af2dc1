package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
	"flotilla/internal/workload"
)

// run is one demo. It is used by one goroutine; clients have their own.
type run struct {
	o       Options
	n       *narrator
	dir     string
	seed    uint64
	fail    context.CancelCauseFunc
	fleet   *agents
	clients *workload.Clients
	volumes []*workload.Volume
	sources []string // paths, of the volumes in order
	targets []string
	ext4    int64 // length of the file system on the first volume, 0 where it has none that can be checked
	images  []*os.File
	rpo     []float64
	captain string // as last seen before the disaster
	killed  *fleet.Host
	dead    time.Time // of the primaries
	figures Figures
}

// Run shows everything once. The figures are as far as it came. An error that wraps ErrDiffers says that the recovered
// volumes are wrong. When it returns no process is left, and no file unless they were to be kept.
func Run(ctx context.Context, o Options) (figures *Figures, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	interrupted := ctx
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	r := &run{o: o, n: &narrator{w: o.Out, terminal: o.Terminal}, seed: rand.Uint64(), fail: fail}
	started := time.Now()
	defer func() { // also when something panics
		if cerr := r.close(); cerr != nil {
			err = errors.Join(err, cerr)
		}
		r.figures.Seconds = time.Since(started).Seconds()
	}()
	if r.dir, err = os.MkdirTemp(o.Dir, "flotilla-demo-"); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	r.figures.Components, r.figures.Agents = o.Components, o.Components+3
	if err := r.all(ctx); err != nil {
		r.n.clear()
		if interrupted.Err() != nil {
			return &r.figures, fmt.Errorf("the demo was interrupted: %w", context.Cause(interrupted))
		}
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", err, cause)
		}
		r.figures.Verdict = err.Error()
		r.guilty(err, context.Cause(ctx) != nil)
		return &r.figures, err
	}
	r.figures.Seconds = time.Since(started).Seconds()
	r.n.title("The figures")
	r.n.raw(r.figures.table())
	return &r.figures, nil
}

// all tells the story.
func (r *run) all(ctx context.Context) error {
	r.n.raw(fmt.Sprintf("Flotilla demo: %s on this machine, without privileges.\n", r.cast()))
	for _, step := range []func(context.Context) error{
		r.prepare, r.assemble, r.replicate, r.loseComponent, r.disaster, r.promote, r.prove,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) cast() string {
	components := fmt.Sprintf("%d backup components", r.o.Components)
	if r.o.Components == 1 {
		components = "1 backup component"
	}
	return "2 primaries, " + components + " and 1 secondary"
}

// close ends everything.
func (r *run) close() error {
	var errs []error
	if r.fleet != nil {
		if r.clients != nil {
			r.clients.Doom()
		}
		errs = append(errs, r.fleet.Close()) // before the clients: a dead server answers at once
	}
	if r.clients != nil {
		r.clients.Close()
	}
	for _, f := range r.images {
		errs = append(errs, f.Close())
	}
	switch {
	case r.dir == "":
	case r.o.Keep:
		r.n.say("Kept: %s", r.dir)
	default:
		if err := os.RemoveAll(r.dir); err != nil {
			errs = append(errs, fmt.Errorf("remove directory of the demo: %w", err))
		}
	}
	return errors.Join(errs...)
}

// guilty shows the end of the agents' logs after a failure that is not explained by one of them that ended.
func (r *run) guilty(err error, explained bool) {
	if explained || errors.Is(err, ErrDiffers) || errors.Is(err, ErrOptions) || r.fleet == nil {
		return
	}
	for _, h := range r.fleet.Hosts {
		if h.Started() && h != r.killed {
			r.n.raw(fmt.Sprintf("\n--- end of the log of %s\n%s\n", h.Name, h.Tail()))
		}
	}
	if !r.o.Keep {
		r.n.raw("\n(--keep keeps the whole logs.)\n")
	}
}

// status asks for the cluster, and notes what belongs to the figures.
func (r *run) status(ctx context.Context) (*api.Status, *api.Group, error) {
	s, err := r.fleet.secondary.Status(ctx)
	if err != nil || s == nil {
		return nil, nil, err
	}
	g := s.Group(groupName)
	if g == nil {
		return s, nil, nil
	}
	if r.dead.IsZero() {
		r.captain = s.Captain
		if g.RPOSeconds != nil && slices.IndexFunc(g.Volumes, func(v api.Volume) bool { return !v.Copied }) < 0 {
			r.rpo = append(r.rpo, *g.RPOSeconds)
		}
	}
	return s, g, nil
}

// prepare makes the images and the devices.
func (r *run) prepare(ctx context.Context) error {
	r.n.title("Making two volumes")
	var err error
	if r.fleet, err = newAgents(r.o, r.dir, r.fail); err != nil {
		return err
	}
	r.clients = workload.NewClients(r.seed)
	plain := workload.LayoutFor(r.o.Size)
	var first image
	layouts := []workload.Layout{plain, plain}
	if r.o.Source != "" {
		if first, err = givenImage(r.o.Source, filepath.Join(r.dir, "image")); err == nil {
			layouts[0] = workload.LayoutAround(first.length, r.o.Size)
		}
	} else {
		first, err = madeImage(ctx, r.fleet.Spawn, r.dir, plain.Image)
	}
	if err != nil {
		return err
	}
	second, err := inventedImage(filepath.Join(r.dir, "image2"), plain.Image, r.seed)
	if err != nil {
		return err
	}
	if first.ext4 {
		r.ext4 = first.length
	}
	if err := checkRoom(r.dir, 5*(layouts[0].Size+layouts[1].Size)); err != nil {
		return err
	}
	for i, im := range []image{first, second} {
		if err := r.addVolume(i, im, layouts[i]); err != nil {
			return err
		}
		v := r.volumes[i]
		r.n.say("Volume %s of %s, %s: %s.", v.Name, r.fleet.primaries[i].Name, bytesText(v.Layout.Size), im.about)
	}
	return nil
}

// addVolume makes source and target of a volume.
func (r *run) addVolume(i int, im image, l workload.Layout) error {
	name := fmt.Sprintf("volume%d", i+1)
	source, target := filepath.Join(r.dir, name+".source"), filepath.Join(r.dir, name+".target")
	if err := sparseCopy(im.path, source, l.Size); err != nil {
		return err
	}
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		return fmt.Errorf("make target: %w", err)
	}
	if err := os.Truncate(target, l.Size); err != nil {
		return fmt.Errorf("make target: %w", err)
	}
	f, err := os.Open(im.path)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	r.images = append(r.images, f)
	r.sources, r.targets = append(r.sources, source), append(r.targets, target)
	r.volumes = append(r.volumes, workload.NewVolume(i, name, l, fileReader{f: f, length: im.length}))
	return nil
}

// assemble starts the agents and makes the group.
func (r *run) assemble(ctx context.Context) error {
	r.n.title("Starting %d agents, each a process of its own", r.figures.Agents)
	at := time.Now()
	count := 0
	p := r.n.progress("started")
	if err := r.fleet.Assemble(ctx, func(*fleet.Host) { count++; p.joining(count, r.figures.Agents) }); err != nil {
		return err
	}
	err := fleet.Until(ctx, fleet.StepTime, "every component is in the view", func(ctx context.Context) (bool, error) {
		s, _, err := r.status(ctx)
		return s != nil && members(s) == r.o.Components, err
	})
	if err != nil {
		return err
	}
	r.n.say("%s founded the cluster; the others joined it with one token each. Everything between them is TLS with certificates of their own. (%s)",
		r.fleet.components[0].Name, seconds(time.Since(at)))
	return nil
}

func members(s *api.Status) (n int) {
	for i := range s.Components {
		if s.Components[i].Member {
			n++
		}
	}
	return n
}
