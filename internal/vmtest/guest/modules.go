package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// nbdParams are the module's: as many devices as its own default makes, and partitions.
const nbdParams = "nbds_max=4 max_part=16"

// modules is a directory with a kernel's modules, as depmod leaves it.
type modules string

// load puts a module into the kernel, and before it those that it needs. What is there stays as it is.
func (m modules) load(name, params string) error {
	text, err := os.ReadFile(filepath.Join(string(m), "modules.dep"))
	if err != nil {
		return fmt.Errorf("load the module %s: %w", name, err)
	}
	for line := range strings.Lines(string(text)) {
		path, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || strings.TrimSuffix(filepath.Base(path), ".ko") != name {
			continue
		}
		all := strings.Fields(needs) // the first one needs all others
		slices.Reverse(all)
		for _, n := range all {
			if err := m.insert(n, ""); err != nil {
				return err
			}
		}
		return m.insert(path, params)
	}
	return fmt.Errorf("load the module %s: %s has none", name, m)
}

func (m modules) insert(path, params string) error {
	f, err := os.Open(filepath.Join(string(m), path))
	if err != nil {
		return fmt.Errorf("load a module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), params, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load the module %s: %w", path, err)
	}
	return nil
}
