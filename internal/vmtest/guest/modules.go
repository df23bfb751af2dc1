package main

import (
	"errors"
	"fmt"
	"os"

	"flotilla/internal/vm"

	"golang.org/x/sys/unix"
)

// nbdParams are the module's: as many devices as its own default makes, and partitions.
const nbdParams = "nbds_max=4 max_part=16"

// load puts a module into the kernel, and before it those that it needs. What is there stays as it is.
func (m *machine) load(name, params string) error {
	files, err := vm.Modules(m.modules).Order(name)
	if err != nil {
		return err
	}
	for i, path := range files {
		if i < len(files)-1 {
			err = insert(path, "")
		} else {
			err = insert(path, params)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func insert(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load a module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), params, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load the module %s: %w", path, err)
	}
	return nil
}
