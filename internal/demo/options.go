package demo

import (
	"errors"
	"fmt"
	"io"
	"time"

	"flotilla/internal/workload"
)

// The group and the volumes of the demo.
const groupName = "demo"

const (
	blockSize = workload.BlockSize
	mib       = int64(1 << 20)
	minSize   = workload.MinSize
	maxSize   = workload.MaxSize
	maxAgents = 32
	maxRun    = time.Hour
)

// Options say what to show. Program and Out must be set.
type Options struct {
	Program    string        // the flotilla binary that is run
	Out        io.Writer     // the story
	Terminal   bool          // Out is one: progress is drawn as a bar
	Components int           // backup components, default 3
	Source     string        // file or device whose bytes are the first volume's image; default: a file system made here
	Size       int64         // of a volume, in bytes; default 64 MiB. A source adds to its volume's
	Run        time.Duration // how long clients write at least before the primaries are killed; default 10 s
	Dir        string        // where the directory of the run is made; default: the system's for temporary files
	Keep       bool          // keep that directory

	// BeforeProof is called when the volumes are promoted, with the paths of their targets. It is for tests of the proof.
	BeforeProof func(targets []string) error
}

// ErrDiffers is wrapped by what the proof finds wrong.
var ErrDiffers = workload.ErrDiffers

// ErrOptions is wrapped by errors about what was asked for.
var ErrOptions = errors.New("cannot show that")

func (o Options) withDefaults() (Options, error) {
	if o.Components == 0 {
		o.Components = 3
	}
	if o.Size == 0 {
		o.Size = 64 * mib
	}
	if o.Run == 0 {
		o.Run = 10 * time.Second
	}
	switch {
	case o.Program == "" || o.Out == nil:
		return o, fmt.Errorf("%w: the program and where to write the story must be given", ErrOptions)
	case o.Components < 1 || o.Components > maxAgents:
		return o, fmt.Errorf("%w: %d components: choose from 1 to %d", ErrOptions, o.Components, maxAgents)
	case o.Size < minSize || o.Size > maxSize || o.Size%mib != 0:
		return o, fmt.Errorf("%w: volumes of %d bytes: choose whole MiB from 16MiB to 4GiB", ErrOptions, o.Size)
	case o.Run < time.Second || o.Run > maxRun:
		return o, fmt.Errorf("%w: %v of writing: choose from 1s to %v", ErrOptions, o.Run, maxRun)
	}
	return o, nil
}
