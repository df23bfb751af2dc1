package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"flotilla/internal/pages"
)

// nbdkit is `nbdkit file` and the kernel's client.
type nbdkit struct {
	server *exec.Cmd
	node   string
}

func startNbdkit(ctx context.Context, s specification) (_ *nbdkit, err error) {
	image, socket := filepath.Join(s.Dir, "peer.img"), filepath.Join(s.Dir, "peer.sock")
	if err := fill(image, s.Size); err != nil {
		return nil, err
	}
	args := []string{"--foreground", "--unix", socket}
	if s.Threads > 0 {
		args = append(args, "--threads", fmt.Sprint(s.Threads))
	}
	n := &nbdkit{server: exec.Command("nbdkit", append(args, "file", image)...), node: "/dev/nbd3"}
	n.server.Stdout, n.server.Stderr = os.Stdout, os.Stderr
	if err := n.server.Start(); err != nil {
		return nil, fmt.Errorf("start nbdkit: %w", err)
	}
	err = until(ctx, waitTime, "nbdkit serves", func() (bool, error) {
		_, err := os.Stat(socket)
		return err == nil, nil
	})
	if err == nil {
		err = sh(ctx, "nbd-client", "-unix", socket, n.node)
	}
	return n, err
}

func (n *nbdkit) begin(context.Context, string, string) error   { return nil }
func (n *nbdkit) end(context.Context, string) error             { return nil }
func (n *nbdkit) stop() error                                   { return nil } // idle, it does nothing
func (n *nbdkit) device(string) string                          { return n.node }
func (n *nbdkit) settle(context.Context, string) error          { return nil }
func (n *nbdkit) same(context.Context, string) error            { return nil }
func (n *nbdkit) link() (int64, error)                          { return 0, nil }
func (n *nbdkit) folded(context.Context, string) (int64, error) { return 0, nil }

// close leaves the rest to the end of the machine.
func (n *nbdkit) close() error { return n.server.Process.Kill() }

// fill fills a file or a device, so that no run pays for its memory.
func fill(path string, size int64) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("fill %s: %w", path, err)
	}
	defer f.Close()
	content := pages.Made(1 << 20 / pages.Size)
	for off := int64(0); off < size; off += int64(len(content)) {
		if _, err := f.WriteAt(content, off); err != nil {
			return fmt.Errorf("fill %s: %w", path, err)
		}
	}
	return f.Sync()
}
