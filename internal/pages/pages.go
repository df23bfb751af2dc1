// Package pages makes what databases write, for programs that measure how it is carried.
package pages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
)

// Size is that of PostgreSQL's pages, in bytes.
const Size = 8192

// Made makes n pages as databases fill them: a header, rows of numbers and words, and an eighth that is free.
func Made(n int) []byte {
	r := rand.New(rand.NewPCG(3, uint64(n)))
	words := []string{"customer", "delivered", "pending", "Frankfurt", "Rotterdam", "2024-05-", "invoice", "EUR"}
	out := make([]byte, n*Size)
	for i := range n {
		p := out[i*Size : (i+1)*Size]
		binary.LittleEndian.PutUint64(p, r.Uint64N(1<<32))
		for at := 24; at+80 < len(p)*7/8; {
			binary.LittleEndian.PutUint64(p[at:], r.Uint64N(1<<24)) // a key
			binary.LittleEndian.PutUint64(p[at+8:], r.Uint64())     // and what nothing makes shorter
			at += 16
			for range 1 + r.IntN(4) {
				at += copy(p[at:], words[r.IntN(len(words))])
			}
		}
	}
	return out
}

// most is how many pages there are to write, at most.
const most = 8192

// Of returns the pages of a file that are not all zero, or made ones if it is "".
func Of(path string) ([]byte, error) {
	if path == "" {
		return Made(most), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the pages: %w", err)
	}
	defer f.Close()
	var out []byte
	page, zero := make([]byte, Size), make([]byte, Size)
	for len(out) < most*Size {
		switch _, err := io.ReadFull(f, page); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			if len(out) == 0 {
				return nil, fmt.Errorf("read the pages: %s has none of %d bytes that is not zero", path, Size)
			}
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("read the pages: %w", err)
		case !bytes.Equal(page, zero):
			out = append(out, page...)
		}
	}
	return out, nil
}
