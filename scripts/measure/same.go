package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sameFiles compares two files, where one of them has data; where none has, both read as zeroes.
func sameFiles(a, b string) error {
	f, err := os.Open(a)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	defer g.Close()
	sizes := [2]int64{}
	for i, o := range []*os.File{f, g} {
		if sizes[i], err = o.Seek(0, io.SeekEnd); err != nil {
			return fmt.Errorf("compare: %w", err)
		}
	}
	if sizes[0] != sizes[1] {
		return fmt.Errorf("%d and %d bytes: %w", sizes[0], sizes[1], errDiffers)
	}
	x, y := make([]byte, sparsePiece), make([]byte, sparsePiece)
	for off := int64(0); ; {
		next, err := nextData(off, f, g)
		if err != nil || next < 0 {
			return err
		}
		n, err1 := f.ReadAt(x, next)
		m, err2 := g.ReadAt(y, next)
		if n != m || string(x[:n]) != string(y[:m]) {
			return fmt.Errorf("from offset %d on: %w", next, errDiffers)
		}
		if err := errors.Join(err1, err2); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("compare at offset %d: %w", next, err)
		}
		off = next + int64(n)
	}
}

// nextData returns where the next data of any of the files is, -1 when there is none.
func nextData(off int64, files ...*os.File) (int64, error) {
	next := int64(-1)
	for _, f := range files {
		at, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("look for data in %s: %w", f.Name(), err)
		}
		if next < 0 || at < next {
			next = at
		}
	}
	return next, nil
}
