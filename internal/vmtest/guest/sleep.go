package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// sleep waits for the machine to be killed.
func sleep(ctx context.Context, m *machine) error {
	if err := os.WriteFile(filepath.Join(m.keep, "asleep"), nil, 0o644); err != nil {
		return err
	}
	<-ctx.Done()
	return errors.New("nobody has killed the machine")
}
