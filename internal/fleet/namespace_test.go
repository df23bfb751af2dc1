package fleet

import (
	"errors"
	"strings"
	"testing"
)

// What runs in a namespace sees another network than what runs after it without one.
func TestNamespace(t *testing.T) {
	s := NewSpawner()
	defer s.Close()
	ns, err := s.NewNamespace()
	if errors.Is(err, ErrPrivilege) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	devices := func(in *Namespace) string {
		t.Helper()
		out, err := s.Run(t.Context(), in, "cat", "/proc/self/net/dev")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if _, err := s.Run(t.Context(), ns, "ip", "link", "add", "here", "type", "veth"); err != nil {
		t.Fatal(err)
	}
	if inside := devices(ns); !strings.Contains(inside, "here:") {
		t.Errorf("inside: %s", inside)
	}
	if outside := devices(nil); strings.Contains(outside, "here:") {
		t.Errorf("outside: %s", outside)
	}
	if err := ns.Close(); err != nil {
		t.Error(err)
	}
}
