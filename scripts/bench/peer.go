package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// peerName is what the JSON lines call the peer.
const peerName = "nbdkit file"

// peer is nbdkit over a file like the volume's source.
type peer struct {
	*process
	uri string
}

// startPeer starts nbdkit with its file plugin over a filled file in dir.
func startPeer(ctx context.Context, dir string, size int64) (*peer, error) {
	image, socket := filepath.Join(dir, "peer.img"), filepath.Join(dir, "peer.sock")
	if err := fill(image, size); err != nil {
		return nil, err
	}
	p, err := startProcess("nbdkit", "nbdkit", "--foreground", "--exit-with-parent", "--unix", socket, "file", image)
	if err != nil {
		return nil, err
	}
	err = until(ctx, startTime, "nbdkit does not serve "+socket, func() (bool, error) {
		_, err := os.Stat(socket)
		return err == nil, p.alive()
	})
	if err != nil {
		return nil, fmt.Errorf("%w; %w", err, p.stop())
	}
	return &peer{p, "nbd+unix:///?socket=" + socket}, nil
}

// until polls for a condition.
func until(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	over := time.After(limit)
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-over:
			return fmt.Errorf("%s within %v", what, limit)
		}
	}
}
