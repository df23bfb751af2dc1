package cluster

import (
	"encoding/binary"
	"math/bits"

	"flotilla/wire"

	"github.com/zeebo/xxh3"
)

// Weighted rendezvous hashing. Every member draws a number u from (0, 1) for each portion, a hash of both, and the one
// with the lowest -log2(u)/weight has it: each wins in proportion to its weight, and the key of a member depends on
// nobody else, so that a change of one weight moves portions to or from that member only (Schindelhauer and Schomaker,
// "Weighted distributed hash tables", 2005). The logarithm is taken in integers: it must be the same on every machine.

// MaxWeight is the highest weight of a member, NominalWeight that of one of which nothing else is known.
const (
	NominalWeight = 100
	MaxWeight     = 255
)

// key orders the members that could have a portion.
type key struct {
	rank   int // the higher the better, whatever the weight
	cost   uint64
	weight uint64
	hash   uint64
	agent  wire.AgentID
}

// better reports whether a goes before b. With equal weights the higher hash does.
func (a *key) better(b *key) bool {
	if a.rank != b.rank {
		return a.rank > b.rank
	}
	// cost/weight; both products are below 2^47.
	if x, y := a.cost*b.weight, b.cost*a.weight; x != y {
		return x < y
	}
	if a.hash != b.hash {
		return a.hash > b.hash
	}
	return a.agent > b.agent
}

// score is the number that a member draws for a portion.
func score(p wire.Portion, m wire.AgentID) uint64 {
	var b [16]byte
	binary.LittleEndian.PutUint32(b[0:], uint32(p.Volume))
	binary.LittleEndian.PutUint32(b[4:], p.Index)
	binary.LittleEndian.PutUint64(b[8:], uint64(m))
	return xxh3.Hash(b[:])
}

// Shape of the table of logarithms.
const (
	logBits = 10 // the table has 2^logBits steps between 1 and 2
	logUnit = 32 // logarithms have so many bits behind the point
)

// cost returns -log2(h/2^64) with logUnit bits behind the point, for h = 0 as for 1. It falls as h rises.
func cost(h uint64) uint64 {
	zeros := bits.LeadingZeros64(h | 1)
	m := (h | 1) << zeros << 1 // the digits of the mantissa behind the point
	step := m >> (64 - logBits)
	low, high := logs[step], logs[step+1]
	part := m << logBits >> 32
	return uint64(zeros+1)<<logUnit - (low + (high-low)*part>>32)
}

// logs holds log2(1 + i/2^logBits) with logUnit bits behind the point.
var logs = logTable()

func logTable() (t [1<<logBits + 1]uint64) {
	for i := range t {
		y := 1<<63 + uint64(i)<<(63-logBits) // 1 + i/2^logBits, with 63 bits behind the point
		if i == 1<<logBits {
			t[i] = 1 << logUnit
			continue
		}
		for range logUnit { // squaring doubles the logarithm: its next digit comes before the point
			high, low := bits.Mul64(y, y)
			t[i] <<= 1
			if high>>63 == 1 {
				t[i]++
				y = high
			} else {
				y = high<<1 | low>>63
			}
		}
	}
	return t
}
