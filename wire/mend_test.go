package wire_test

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
)

func crc(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }

// mendBody sets lengths and CRCs of a body right as far as its layout goes.
func mendBody(raw []byte) []byte {
	if len(raw) < 56 {
		return raw
	}
	raw = slices.Clone(raw)
	le := binary.LittleEndian
	raw[0], raw[1], raw[2], raw[3] = 1, raw[1]%3, 0, 0
	table := int(le.Uint32(raw[36:])) % (len(raw) - 56 + 1)
	le.PutUint32(raw[36:], uint32(table))
	le.PutUint32(raw[44:], uint32(len(raw)-56-table))
	le.PutUint32(raw[48:], crc(raw[56+table:]))
	le.PutUint32(raw[52:], crc(slices.Concat(raw[:52], raw[56:56+table])))
	return raw
}

// mendEnd sets a CRC in the last four bytes right.
func mendEnd(raw []byte) []byte {
	if len(raw) < 4 {
		return raw
	}
	raw = slices.Clone(raw)
	binary.LittleEndian.PutUint32(raw[len(raw)-4:], crc(raw[:len(raw)-4]))
	return raw
}
