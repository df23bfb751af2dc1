package workload

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
)

// Every block of an update is made of the update's name alone, so a reader can tell which update it sees, and the writer
// can make the bytes again to compare. Little endian:
//
//	 0        8        16       24       28       32               2048              4096
//	┌────────┬────────┬────────┬────────┬────────┬────────────────┬─────────────────┐
//	│ run    │ stream │ index  │ block  │ CRC32C │ noise          │ a sentence, over │
//	│        │        │        │ number │ of 0–27│                │ and over         │
//	└────────┴────────┴────────┴────────┴────────┴────────────────┴─────────────────┘
//
// run is drawn anew for each set of clients; the block's number is its offset on the volume in blocks. Half of the block does not
// compress, like the data of many applications.
const (
	blockHead  = 32
	blockNoise = 2048
)

// blockName is what a block says of itself.
type blockName struct {
	run    uint64
	stream uint64
	index  uint64 // of the update in its stream, from 1
	number uint32 // of the block on the volume
}

func (n blockName) head(p []byte) {
	binary.LittleEndian.PutUint64(p[0:], n.run)
	binary.LittleEndian.PutUint64(p[8:], n.stream)
	binary.LittleEndian.PutUint64(p[16:], n.index)
	binary.LittleEndian.PutUint32(p[24:], n.number)
	binary.LittleEndian.PutUint32(p[28:], crc32.Checksum(p[:28], crc32.MakeTable(crc32.Castagnoli)))
}

// fill writes the whole block.
func (n blockName) fill(p []byte) {
	n.head(p)
	r := rand.New(rand.NewPCG(n.run^n.stream<<56, n.index<<32|uint64(n.number)))
	for i := blockHead; i < blockNoise; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], r.Uint64())
	}
	line := fmt.Appendf(nil, "stream %d, update %d: what was acknowledged in order is recovered in order. ", n.stream, n.index)
	for rest := p[blockNoise:BlockSize]; len(rest) > 0; {
		rest = rest[copy(rest, line):]
	}
}

// readName returns what a block says of itself, or false when it is no block of an update.
func readName(p []byte) (blockName, bool) {
	n := blockName{
		run: binary.LittleEndian.Uint64(p[0:]), stream: binary.LittleEndian.Uint64(p[8:]),
		index: binary.LittleEndian.Uint64(p[16:]), number: binary.LittleEndian.Uint32(p[24:]),
	}
	var want [blockHead]byte
	n.head(want[:])
	return n, [blockHead]byte(p[:blockHead]) == want
}
