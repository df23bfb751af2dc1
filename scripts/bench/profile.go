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
	"sync"
	"time"

	"flotilla/internal/fio"
)

// profile runs a job once more and takes the profiles of all agents meanwhile: the processor time of all of it, and at
// its end what was allocated so far.
func profile(ctx context.Context, o options, v *volume, j fio.Job) error {
	if err := os.MkdirAll(o.profiles, 0o755); err != nil {
		return fmt.Errorf("make the directory of profiles: %w", err)
	}
	var wg sync.WaitGroup
	errs := make([]error, len(v.cluster.members)+1)
	wg.Go(func() { _, errs[0] = runFio(ctx, o, j, v.uri) })
	for i, a := range v.cluster.members {
		wg.Go(func() {
			base := filepath.Join(o.profiles, v.cluster.kind.name+"-"+j.Name()+"-"+a.name)
			seconds := int((o.ramp + o.runtime) / time.Second)
			errs[i+1] = errors.Join(
				a.save(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, seconds)), base+".cpu"),
				a.save(ctx, "/debug/pprof/allocs", base+".allocs"),
			)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// save writes what the agent's socket answers to a file.
func (a *runningAgent) save(ctx context.Context, path, name string) (err error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(a.state, "admin.sock"))
	}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return fmt.Errorf("take a profile of %s: %w", a.name, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("take a profile of %s: %s: does its program know debug.profiles?", a.name, answer.Status)
	}
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("keep a profile: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, answer.Body); err != nil {
		return fmt.Errorf("take a profile of %s: %w", a.name, err)
	}
	return nil
}
