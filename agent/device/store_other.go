//go:build !linux

package device

import "os"

// Store is of Linux; here there is none.
type Store struct{}

// OpenStore returns nil.
func OpenStore(func(string) string) *Store { return nil }

// Take and Keep are never called.
func (*Store) Take(string) *os.File        { return nil }
func (*Store) Keep(string, *os.File) error { return nil }
