package journal

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Options configures a journal. Dir and Limit have no default.
type Options struct {
	// Dir is the journal's own directory; it is made if missing. Files with other names in it are left alone.
	Dir string
	// SegmentSize is the size of new segments in bytes, a multiple of 4096 from 128 KiB to 1 GiB. Default 64 MiB.
	// It can differ from one Open to the next.
	SegmentSize int64
	// Limit is what the segments may take together, in bytes.
	Limit int64
	// Reserve is the part of Limit that only urgent records may use, in bytes.
	Reserve int64
	// MaxPending bounds the memory of records that are not durable yet, in bytes, from 64 KiB to 128 MiB. Half of it is
	// the largest batch, except that a larger record makes a batch of its own. Default 16 MiB.
	MaxPending int
	// FlushInterval is the shortest time between the starts of two flushes, at most 20 ms, to save the disk
	// operations where latency matters less. A batch of 256 KiB does not wait for it. Default 0: the flush before is
	// the only wait.
	FlushInterval time.Duration
	// MarkDelay is how long after the last flush the durable mark is written: the window within which rot of the
	// last batch would pass for a torn tail. At most 1 s. Default 20 ms.
	MarkDelay time.Duration
	// Preallocate reserves a segment's space when it is begun, so that a full disk shows then and a flush has
	// less metadata to write. Without support by the file system it is ignored.
	Preallocate bool
	// Spares is how many freed segments are kept as files to be used again, so that a flush to them has no metadata
	// to write at all. They count against Limit only by being used up first. Default 4; negative: none.
	Spares int
	// Logger gets state changes. Default: none.
	Logger *slog.Logger
	// Random gives the salts of segments. Default crypto/rand.
	Random io.Reader
}

const (
	defaultSegmentSize = 64 << 20
	defaultMaxPending  = 16 << 20
	defaultMarkDelay   = 20 * time.Millisecond
	defaultSpares      = 4
	maxFlushInterval   = 20 * time.Millisecond
	maxMarkDelay       = time.Second
	minPending         = 64 << 10

	// flushBytes is the size from which a batch no longer waits for FlushInterval.
	flushBytes = 256 << 10
)

// withDefaults returns the options with what was left out filled in, or says what is wrong.
func (o Options) withDefaults() (Options, error) {
	if o.SegmentSize == 0 {
		o.SegmentSize = defaultSegmentSize
	}
	if o.MaxPending == 0 {
		o.MaxPending = defaultMaxPending
	}
	if o.MarkDelay == 0 {
		o.MarkDelay = defaultMarkDelay
	}
	if o.Spares == 0 {
		o.Spares = defaultSpares
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	switch {
	case o.Dir == "":
		return o, fmt.Errorf("journal options: no directory is given")
	case o.SegmentSize < minSegmentSize || o.SegmentSize > maxSegmentSize || o.SegmentSize%block != 0:
		return o, fmt.Errorf("journal options: segment size %d is not a multiple of %d from %d to %d",
			o.SegmentSize, block, minSegmentSize, maxSegmentSize)
	case o.Reserve < 0 || o.Limit-o.Reserve < 2*o.SegmentSize:
		return o, fmt.Errorf("journal options: limit %d minus reserve %d leaves less than two segments of %d; raise the limit",
			o.Limit, o.Reserve, o.SegmentSize)
	case headerLength(int(min(o.Limit/o.SegmentSize, maxListed+1))) > o.SegmentSize/4 || o.Limit/o.SegmentSize > maxListed:
		return o, fmt.Errorf("journal options: limit %d is too many segments of %d; make the segments larger", o.Limit, o.SegmentSize)
	case o.MaxPending < minPending || o.MaxPending > 2*maxBatchSize:
		return o, fmt.Errorf("journal options: max pending %d is not from %d to %d", o.MaxPending, minPending, 2*maxBatchSize)
	case o.FlushInterval < 0 || o.FlushInterval > maxFlushInterval:
		return o, fmt.Errorf("journal options: flush interval %v is not from 0 to %v", o.FlushInterval, maxFlushInterval)
	case o.MarkDelay < 0 || o.MarkDelay > maxMarkDelay:
		return o, fmt.Errorf("journal options: mark delay %v is not from 0 to %v", o.MarkDelay, maxMarkDelay)
	}
	return o, nil
}

// maxBatch returns the bytes from which a batch takes no further record.
func (o *Options) maxBatch() int { return o.MaxPending/2 - block }

// maxRecord returns the most bytes a payload may have: with a segment's header of at most a quarter and the blocks kept
// free at its end, half a segment always fits.
func (o *Options) maxRecord() int {
	return int(min(o.SegmentSize/2, maxBatchSize-block)) - batchHeaderSize - recordHeaderSize - 8
}
