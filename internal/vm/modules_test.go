package vm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep":     "kernel/md/dm-log.ko: kernel/md/dm-mod.ko\nkernel/md/dm-mod.ko:\nkernel/md/dm-mirror.ko: kernel/md/dm-log.ko kernel/md/dm-mod.ko\n",
		"modules.builtin": "kernel/fs/ext4/ext4.ko\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ names, want string }{
		{"dm_mirror", "dm-mod.ko dm-log.ko dm-mirror.ko"},
		{"dm-log ext4 dm-mod", "dm-mod.ko dm-log.ko"},
		{"ext4", ""},
	} {
		got, err := Modules(dir).Order(strings.Fields(c.names)...)
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range got {
			got[i] = filepath.Base(f)
		}
		if want := strings.Fields(c.want); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", c.names, got, want)
		}
	}
	if _, err := Modules(dir).Order("nbd"); err == nil || !strings.Contains(err.Error(), "has no nbd") {
		t.Errorf("a module that is not there: %v", err)
	}
}
