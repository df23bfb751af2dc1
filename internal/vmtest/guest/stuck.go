package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"flotilla/internal/fleet"
)

// profiled is the setting with which an agent shows its goroutines (agent/debug.go).
const profiled = "debug: {profiles: true}\n"

// saveGoroutines puts what every goroutine of an agent does where the host finds it.
func (m *machine) saveGoroutines(h *fleet.Host, name string) error {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.Socket())
		},
	}}
	r, err := client.Get("http://agent/debug/pprof/goroutine?debug=2")
	if err != nil {
		return fmt.Errorf("ask %s for its goroutines: %w", h.Name, err)
	}
	defer r.Body.Close()
	f, err := os.Create(filepath.Join(m.keep, name+"-"+h.Name+".log"))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r.Body)
	return errors.Join(err, f.Close())
}

// explain saves the goroutines of hosts when rows have stood still for so long, once.
func (r *rows) explain(ctx context.Context, after time.Duration, name string, hosts ...*fleet.Host) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.mu.Lock()
		still := time.Since(r.at)
		ended := r.ended
		r.mu.Unlock()
		if ended {
			return
		}
		if still > after {
			say("%s: no row for %v", name, still.Round(time.Millisecond))
			for _, h := range hosts {
				if err := r.saveGoroutines(h, name); err != nil {
					say("%v", err)
				}
			}
			return
		}
	}
}
