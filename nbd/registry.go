package nbd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

var (
	// ErrUnknownExport is returned when there is no export of a name.
	ErrUnknownExport = errors.New("unknown NBD export")

	// ErrExportExists is returned when the name of a new export is taken.
	ErrExportExists = errors.New("NBD export exists")
)

// exportEntry is one export under its name.
type exportEntry struct {
	name   string
	export Export
	gone   bool               // guarded by Server.mu: takes no more connections
	conns  map[*conn]struct{} // guarded by Server.mu
	empty  chan struct{}      // closed when gone and without connections
}

// AddExport offers e under name. The empty name is the default export; without
// one, it stands for the only export if there is just one.
func (s *Server) AddExport(name string, e Export) error {
	if !validName(name) {
		return fmt.Errorf("add NBD export %q: the name must be a UTF-8 string of at most 4096 bytes", name)
	}
	if _, err := e.Info().normalize(s.limits.Payload); err != nil {
		return fmt.Errorf("add NBD export %q: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.exports[name]; taken {
		return fmt.Errorf("add NBD export %q: %w; remove it first", name, ErrExportExists)
	}
	s.exports[name] = &exportEntry{name: name, export: e, conns: map[*conn]struct{}{}, empty: make(chan struct{})}
	return nil
}

// RemoveExport withdraws the export: no client can choose it any more, and its
// connections are drained. It returns when the last of them has ended; if ctx
// ends before, or Limits.Drain passes, what is still in flight is abandoned.
func (s *Server) RemoveExport(ctx context.Context, name string) error {
	s.mu.Lock()
	e := s.exports[name]
	if e == nil {
		s.mu.Unlock()
		return fmt.Errorf("remove NBD export %q: %w", name, ErrUnknownExport)
	}
	delete(s.exports, name)
	e.gone = true
	if len(e.conns) == 0 {
		close(e.empty)
	}
	for c := range e.conns {
		c.drain(s.limits.Drain)
	}
	s.mu.Unlock()

	select {
	case <-e.empty:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range e.conns {
		c.abandon()
	}
	s.mu.Unlock()
	<-e.empty
	return nil
}

// lookup returns the export of the name, or nil.
func (s *Server) lookup(name string) *exportEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.exports[name]; e != nil || name != "" || len(s.exports) != 1 {
		return e
	}
	for _, e := range s.exports {
		return e
	}
	return nil
}

// list returns the exports by name.
func (s *Server) list() []*exportEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*exportEntry, 0, len(s.exports))
	for _, e := range s.exports {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *exportEntry) int { return cmp.Compare(a.name, b.name) })
	return all
}

// attach counts c as a connection of e, unless e has been removed.
func (s *Server) attach(e *exportEntry, c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.gone {
		return false
	}
	e.conns[c] = struct{}{}
	return true
}

func (s *Server) detachConn(e *exportEntry, c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(e.conns, c)
	if e.gone && len(e.conns) == 0 {
		close(e.empty)
	}
}
