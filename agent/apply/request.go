// Package apply is what a backup component asks of a secondary: to write pieces of one set to one target volume, to
// make durable what it had written before, and to compare ranges of the target with the primary's digests (check.go). Whoever carries a [Request] between agents calls [Request.Validate] on what
// it has received, before anything else looks at it.
package apply

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"flotilla/wire"
)

// Limits of one request.
const (
	// MaxData bounds the bytes that all pieces of a request carry.
	MaxData = 8 << 20
	// MaxPieces bounds the pieces of a request.
	MaxPieces = 8192
)

// ErrUnwritten says that the secondary does not hold, in this run and with this opening of the device, the writes that
// a flush is to make durable: everything is to be written again. A secondary that went down with its machine between a
// write and its flush may have lost the write.
var ErrUnwritten = errors.New("writes to be flushed are not here")

// ErrInvalid says that a request is not well formed.
var ErrInvalid = errors.New("invalid apply request")

// Request is one bulk write to a target. Its pieces are disjoint, and so are those of all requests of one attempt: they
// may be written in any order.
type Request struct {
	Group  wire.GroupID
	Inc    wire.Incarnation
	Set    wire.Set
	View   wire.View
	Volume wire.VolumeID

	// From and To are set where a component does not reach the secondary: the request then goes over one agent that reaches
	// both. Otherwise both are 0.
	From, To wire.AgentID

	// Attempt tells the tries of one owner to apply its share of a set apart. It is random.
	Attempt uint64
	Pieces  []Piece
	// Flush makes the volume durable after the pieces are written. Writes is how many requests of this attempt for this
	// volume, this one not counted, were answered before: the secondary refuses with ErrUnwritten if it knows of less.
	Flush  bool
	Writes uint32
	// Checks says that nothing is to be written: see check.go for what the pieces are.
	Checks bool
}

// Piece is one range of a request.
type Piece struct {
	Kind   wire.Kind // write, zero or trim; check, in a request of checks
	Later  bool      // of a check: later updates of the set overlap its range
	Offset uint64    // bytes, in the volume
	Length uint32    // bytes
	// Sum is Sum(Data) of a write or a check, else 0. The component makes it of data that it has just compared with what the primary
	// sealed, and the secondary checks it before it writes (P8).
	Sum  uint32
	Data []byte // Length bytes of a write; what NewCheck made of a check; else nil. Not changed while the request is under way
}

// castagnoli is never written after initialization.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum returns the CRC32C of a piece's data.
func Sum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// End returns the offset of the first byte behind the piece.
func (p *Piece) End() uint64 { return p.Offset + uint64(p.Length) }

// DataBytes returns how many bytes the request carries.
func (r *Request) DataBytes() int {
	n := 0
	for i := range r.Pieces {
		n += len(r.Pieces[i].Data)
	}
	return n
}

// Validate refuses what no component asks for and what was damaged under way, with ErrInvalid. It does not know the
// volume's size.
func (r *Request) Validate() error {
	switch {
	case len(r.Pieces) > MaxPieces:
		return fmt.Errorf("%w: %d pieces are more than %d", ErrInvalid, len(r.Pieces), MaxPieces)
	case len(r.Pieces) == 0 && !r.Flush:
		return fmt.Errorf("%w: nothing is to be written or flushed", ErrInvalid)
	case r.DataBytes() > MaxData:
		return fmt.Errorf("%w: %d bytes of data are more than %d", ErrInvalid, r.DataBytes(), MaxData)
	}
	for i := range r.Pieces {
		if err := r.Pieces[i].validate(r.Checks); err != nil {
			return fmt.Errorf("%w: piece %d: %w", ErrInvalid, i, err)
		}
	}
	if r.Checks {
		return r.validateChecks()
	}
	return nil
}

func (p *Piece) validate(checks bool) error {
	want := 0
	switch {
	case p.Kind == wire.KindWrite:
		want = int(p.Length)
	case p.Kind == wire.KindZero, p.Kind == wire.KindTrim:
	case p.Kind == wire.KindCheck && checks:
		want = checkDataLength
	default:
		return fmt.Errorf("kind %v is no content of a volume", p.Kind)
	}
	switch {
	case p.Later && p.Kind != wire.KindCheck:
		return fmt.Errorf("%v says that later updates overlap it, which is said of checks", p.Kind)
	case p.Length == 0:
		return fmt.Errorf("%v at offset %d has no length", p.Kind, p.Offset)
	case p.Offset > math.MaxInt64-uint64(p.Length):
		return fmt.Errorf("%v of %d bytes at offset %d passes the end of 63 bits", p.Kind, p.Length, p.Offset)
	case len(p.Data) != want:
		return fmt.Errorf("%v of %d bytes carries %d", p.Kind, p.Length, len(p.Data))
	case want == 0 && p.Sum != 0:
		return fmt.Errorf("%v carries no data and has sum %08x", p.Kind, p.Sum)
	case want > 0 && p.Sum != Sum(p.Data):
		return fmt.Errorf("%v of %d bytes at offset %d: its data has sum %08x and should have %08x", p.Kind, p.Length, p.Offset, Sum(p.Data), p.Sum)
	}
	return nil
}
