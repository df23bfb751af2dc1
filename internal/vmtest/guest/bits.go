package main

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
)

// markedExtents counts the bits that are set in a volume's file of bits (agent/primary/doc.go draws it): what a start now would
// have copied. The state directory has one volume.
func markedExtents(state string, extents int) (int, error) {
	files, err := filepath.Glob(filepath.Join(state, "primary", "*"))
	if err != nil {
		return 0, err
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		if len(text) < 512 || string(text[:8]) != "FLOTBITS" {
			continue
		}
		n := 0
		for sector := 512; sector+512 <= len(text) && extents > 0; sector += 512 {
			held := min(extents, 3968)
			extents -= held
			if binary.LittleEndian.Uint32(text[sector:]) != 0x32746962 {
				return 0, fmt.Errorf("%s has no bits at offset %d", path, sector)
			}
			for _, b := range text[sector+12 : sector+508] {
				n += bits.OnesCount8(b)
			}
		}
		if extents > 0 {
			return 0, fmt.Errorf("%s ends before the bits of %d extents", path, extents)
		}
		return n, nil
	}
	return 0, fmt.Errorf("no file of bits among %q", files)
}
