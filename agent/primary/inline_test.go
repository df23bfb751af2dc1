package primary

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestHaste: a slow request keeps the next ones away for ten times as long as it took, slow ones in a row for longer, and
// a quick one forgives.
func TestHaste(t *testing.T) {
	const limit = time.Millisecond
	var h haste
	now := time.Second
	if !h.allowed(now) {
		t.Error("nothing was slow yet")
	}
	h.took(limit-1, limit, now)
	if !h.allowed(now) {
		t.Error("a quick request keeps others away")
	}
	var last time.Duration
	for i := range 20 {
		h.took(2*limit, limit, now)
		pause := time.Duration(h.until.Load()) - now
		if h.allowed(now) || h.allowed(now+pause-1) || !h.allowed(now+pause) {
			t.Errorf("slow request %d: not kept away for the pause of %v", i, pause)
		}
		if want := min(max(20*limit, 2*last), inlineLater); pause != want {
			t.Errorf("slow request %d: a pause of %v, want %v", i, pause, want)
		}
		last = pause
		now += pause
	}
	if last != inlineLater {
		t.Errorf("the last pause is %v, want %v", last, inlineLater)
	}
	h.took(0, limit, now)
	h.took(limit, limit, now)
	if pause := time.Duration(h.until.Load()) - now; pause != 10*limit {
		t.Errorf("after a quick request the pause is %v, want %v", pause, 10*limit)
	}
}

func TestIsCached(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !isCached(file) || isCached(dir) || isCached(filepath.Join(dir, "none")) || isCached("/dev/null") {
		t.Error("only a regular file is in the page cache")
	}
}
