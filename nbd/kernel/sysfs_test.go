package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tree makes a sysfs of the files.
func tree(t *testing.T, files map[string]string) Sysfs {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, "block", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Sysfs{root}
}

func TestFindByIdentifier(t *testing.T) {
	s := tree(t, map[string]string{
		"sda/size":      "1\n",
		"nbdx/size":     "1\n",
		"nbd0/size":     "0\n", // not set up: its identifier is left over
		"nbd0/backend":  "flotilla:a:g/v\n",
		"nbd2/size":     "2048\n",
		"nbd2/pid":      "77\n",
		"nbd2/backend":  "flotilla:a:g/v\n",
		"nbd10/size":    "8\n",
		"nbd10/pid":     "78\n", // an old kernel: no identifier
		"nbd11/pid":     "79\n", // going away: no size
		"nbd11/backend": "flotilla:a:g/w\n",
	})
	all, err := s.Devices()
	if diff := cmp.Diff([]int{0, 2, 10, 11}, all); diff != "" || err != nil {
		t.Error(diff, err)
	}
	d, there, err := s.Find("flotilla:a:g/v")
	if diff := cmp.Diff(Device{2, "flotilla:a:g/v", 1 << 20}, d); diff != "" || !there || err != nil {
		t.Error(diff, there, err)
	}
	if _, there, err := s.Find("flotilla:a:g/w"); there || err != nil {
		t.Error("a device without a size was found", err)
	}
}

func TestSizeThatIsNone(t *testing.T) {
	s := tree(t, map[string]string{"nbd0/size": "many\n", "nbd0/pid": "1\n"})
	if _, _, err := s.Get(0); err == nil || !strings.Contains(err.Error(), `"many"`) {
		t.Error(err)
	}
}

func TestQueue(t *testing.T) {
	s := tree(t, map[string]string{
		"nbd0/queue/max_sectors_kb": "128", "nbd0/queue/scheduler": "[mq-deadline] none",
		"nbd0/queue/write_cache": "write back\n", "nbd0/queue/fua": "1\n", "nbd0/queue/discard_max_bytes": "0\n",
	})
	if diff := cmp.Diff([]string{"trim", "write-zeroes"}, s.Missing(0, flagSendFlush|flagSendFUA|flagSendTrim|flagSendWriteZeroes)); diff != "" {
		t.Error(diff)
	}
	if got := s.Missing(0, flagSendFlush); got != nil {
		t.Errorf("missing %q of what is there", got)
	}
	if err := os.Remove(s.path(0, "queue", "scheduler")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.path(0, "queue", "scheduler"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Tune(0); err == nil || !strings.Contains(err.Error(), "scheduler of nbd0") {
		t.Errorf("error %v does not name the setting that was not taken", err)
	}
	if text, _ := s.read(0, "queue", "max_sectors_kb"); text != "512" {
		t.Errorf("max_sectors_kb is %q", text)
	}
}

func TestConfigsThatAreWrong(t *testing.T) {
	good := Config{Index: AnyIndex, Size: 4096, BlockSize: 512, Timeout: time.Second}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"index -2":        func(c *Config) { c.Index = -2 },
		"block size 1000": func(c *Config) { c.BlockSize = 1000 },
		"size 4097":       func(c *Config) { c.Size = 4097 },
		"time-out 0s":     func(c *Config) { c.Timeout = 0 },
		"time-out 1.5s":   func(c *Config) { c.DeadTimeout = 1500 * time.Millisecond },
		"identifier of":   func(c *Config) { c.Identifier = strings.Repeat("x", 2000) },
	} {
		c := good
		change(&c)
		if err := c.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestMissingAttributesAreNoErrors(t *testing.T) {
	if err := ignoreMissing(os.ErrNotExist); err != nil {
		t.Error(err)
	}
	if err := ignoreMissing(errors.New("x")); err == nil {
		t.Error("an error was dropped")
	}
}
