package blockdev

import (
	"errors"
	"fmt"
	"strings"

	"flotilla/blockdev/loop"
	"flotilla/blockdev/usage"
)

// Inspection is what can be seen of a file or block device without claiming it.
type Inspection struct {
	Size       int64
	BlockSizes BlockSizes
	Block      bool        // it is a block device, or would be opened as one
	Uses       []usage.Use // what keeps it from being claimed
	Signatures []string    // what it holds, see usage.Signatures, or that this can not be read
}

// Signatures returns what a device holds, by name: file systems, partition tables and the like that package usage knows.
func Signatures(d Device) ([]string, error) { return usage.Signatures(d, d.Size()) }

// Inspect looks at what Open would open at path. What holds it meanwhile, this process too, may change it.
func Inspect(path string) (*Inspection, error) {
	file, isLoop := strings.CutPrefix(path, LoopPrefix)
	d, err := openPath(file, Options{ReadOnly: true, Buffered: true})
	if err != nil {
		return nil, err
	}
	_, isRaw := d.(*raw)
	if isLoop {
		err := loop.CheckSize(file, d.Size(), 0)
		if isRaw {
			err = fmt.Errorf("it is a block device: leave out %q", LoopPrefix)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("inspect %s: %w", path, err), d.Close())
		}
	}
	i := &Inspection{Size: d.Size(), BlockSizes: d.BlockSizes(), Block: isRaw || isLoop}
	if i.Signatures, err = Signatures(d); err != nil {
		i.Signatures = []string{fmt.Sprintf("what can not be read (%v)", err)} // a source may have such a part
	}
	if err = d.Close(); err != nil {
		return nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	uses, err := usage.Of(file)
	if err != nil {
		return nil, err
	}
	for _, u := range uses {
		if !isLoop || !u.Left {
			i.Uses = append(i.Uses, u)
		}
	}
	return i, nil
}
