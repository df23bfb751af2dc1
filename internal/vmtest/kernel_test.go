//go:build vmtest

package vmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// kernel is something that boots, ready to be used.
type kernel struct {
	modules string   // directory with its modules and modules.dep
	disks   []string // the names that it gives disks, in order
	slower  int      // how much longer waits are than with User Mode Linux
	command func(dir, script string, disks []string) []string
}

// kernels are the ways to boot.
var kernels = map[string]interface {
	prepare(dir string) (*kernel, error)
}{"uml": uml{}, "qemu": qemu{}}

// clear removes what an earlier life has left that speaks of its end.
func (k *kernel) clear(dir string) error {
	if err := os.Remove(filepath.Join(dir, "verdict")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func names(format string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf(format, 'a'+i))
	}
	return out
}

// uml boots User Mode Linux as a process whose root is this machine's.
type uml struct{}

func (uml) prepare(string) (*kernel, error) {
	modules, err := filepath.Glob("/usr/lib/uml/modules/*")
	if _, lookErr := exec.LookPath("linux.uml"); lookErr != nil || err != nil || len(modules) != 1 {
		return nil, fmt.Errorf("User Mode Linux is missing (%v, modules %v): run scripts/test-deps.sh", lookErr, modules)
	}
	return &kernel{
		modules: modules[0], disks: names("/dev/ubd%c", 16), slower: 1,
		command: func(dir, script string, disks []string) []string {
			words := []string{"linux.uml", "mem=1400M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "quiet", "init=" + script,
				"con=null", "con0=fd:0,fd:1", "uml_dir=" + dir, "umid=vm"}
			for i, d := range disks {
				words = append(words, fmt.Sprintf("ubd%d=%s", i, d))
			}
			return words
		},
	}, nil
}
