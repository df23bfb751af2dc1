package primary

import (
	"fmt"
)

// bitFile is the bits of a volume on their medium. One goroutine at a time uses it.
type bitFile struct {
	medium bitMedium
	shape  bitShape
	key    uint32
	anew   bool // what is on the medium can not be trusted, or is not there: all of it must be written
}

// bitMedium is where bits lie. Nothing that was written counts before sync or replace has returned without an error.
type bitMedium interface {
	// load returns up to n bytes of what is there, nil where nothing is. With an error, too, replace makes it usable.
	load(n int) ([]byte, error)
	// write changes a part of what load or replace found or made there.
	write(p []byte, off int64) error
	sync() error
	// replace writes everything anew. If it fails, or power does, there may be any mixture of sectors old and new.
	replace(all []byte) error
	// abandon says that a write or sync failed: what the system believes to be there may be gone. Only replace follows.
	abandon() error
	close() error
	// remove takes everything away, and closes.
	remove() error
	// String says where it is.
	String() string
}

// openBitFile reads the bits of a volume. bits is nil where all are to be taken as set: for a new volume, and, with a
// reason, where what is there is of no use. bad is the number of sectors that were taken as all ones. Where the reason is
// not nil, nothing was there or it is of an old version, everything is written anew by the first write.
//
// The bits of a volume that grows may be of the size that it had, of the one that it is to have, or of one between that it was to
// have before: f.shape says which.
func openBitFile(m bitMedium, shape bitShape, g bitReach) (f *bitFile, bits bitset, bad int, reason error) {
	f = &bitFile{medium: m, shape: shape, key: shape.key(), anew: true}
	raw, err := m.load(max(shape.length(), g.length()))
	if err != nil {
		return f, nil, 0, fmt.Errorf("read the activity log: %w", err)
	}
	if raw == nil {
		return f, nil, 0, nil
	}
	found := shape.found(raw, g.reach, g.finest)
	bits, bad, old := found.parse(raw)
	switch {
	case bits == nil:
		return f, nil, 0, fmt.Errorf("read the activity log %v: it is not of volume %d, copy %d, with %d bytes in extents of %d",
			m, shape.volume, shape.copy, shape.size, shape.extent)
	case found.extent != shape.extent:
		f.shape, bits = found.coarser(bits, shape.extent)
		f.key = f.shape.key()
		return f, bits, bad, nil // damaged sectors count as set, and all is written anew in any case
	}
	f.shape, f.key = found, found.key()
	switch {
	case bad > 0:
		// Everything is written anew, so that what is bad does not stay until somebody writes there.
		return f, bits, bad, fmt.Errorf("read the activity log %v: %d of %d sectors are damaged", m, bad, found.sectors())
	}
	f.anew = old
	return f, bits, 0, nil
}

// whole reports whether everything must be written, because there is nothing that can be trusted.
func (f *bitFile) whole() bool { return f.anew }

// bitReach is how far bits on disk may have grown.
type bitReach struct {
	reach  int64 // bytes of the volume, 0 where it does not grow
	finest int64 // bytes of an extent, at least; 0 for what the shape says
}

// length returns how many bytes the longest of these bits take.
func (g bitReach) length() int {
	if g.reach == 0 || g.finest == 0 {
		return 0
	}
	return bitShape{size: g.reach, extent: g.finest}.length()
}

// reshape makes the bits those of another shape, in the same extents.
func (f *bitFile) reshape(s bitShape) { f.shape, f.key, f.anew = s, s.key(), true }

// write makes sectors durable. secs is ascending, encoded holds one sector for each. When whole() is true it must be
// all of them. After an error nothing is known of what is on disk but what the format promises.
func (f *bitFile) write(secs []int, encoded []byte) error {
	if f.anew {
		all := append(f.shape.appendHeader(make([]byte, 0, bitSector+len(encoded))), encoded...)
		if err := f.medium.replace(all); err != nil {
			return fmt.Errorf("make the activity log anew: %w", err)
		}
		f.anew = false
		return nil
	}
	err := writeRuns(f.medium, secs, encoded, 1)
	if err == nil {
		err = f.medium.sync()
	}
	if err == nil {
		return nil
	}
	f.anew = true
	if closing := f.medium.abandon(); closing != nil {
		return fmt.Errorf("write the activity log %v: %w; then: %w", f.medium, err, closing)
	}
	return fmt.Errorf("write the activity log %v: %w", f.medium, err)
}

// writeRuns writes neighbours together. ahead is how many other sectors lie before them.
func writeRuns(m bitMedium, secs []int, encoded []byte, ahead int) error {
	for i := 0; i < len(secs); {
		k := i + 1
		for k < len(secs) && secs[k] == secs[k-1]+1 {
			k++
		}
		if err := m.write(encoded[i*bitSector:k*bitSector], int64(ahead+secs[i])*bitSector); err != nil {
			return err
		}
		i = k
	}
	return nil
}
