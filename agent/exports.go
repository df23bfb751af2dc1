package agent

import (
	"context"
	"net"
	"net/url"
	"slices"
	"sync"

	"flotilla/agent/api"
	"flotilla/agent/device"
	"flotilla/agent/primary"
	"flotilla/nbd"
)

// exports is the agent's NBD server, with the names that it serves. The roles add and remove exports.
type exports struct {
	*nbd.Server
	bases   []string        // URIs to which an export's name is added
	devices *device.Manager // what of them has a block device on this host

	mu    sync.Mutex
	names []string // ascending
}

func newExports(server *nbd.Server, c NBDConfig, advertise string) *exports {
	e := &exports{Server: server}
	if c.Listen != "" {
		host, port, _ := net.SplitHostPort(c.Listen) // the configuration has been checked
		if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
			host, _, _ = net.SplitHostPort(advertise)
		}
		e.bases = append(e.bases, "nbd://"+net.JoinHostPort(host, port)+"/")
	}
	if c.Unix != "" {
		e.bases = append(e.bases, "nbd+unix:///?socket="+url.QueryEscape(c.Unix))
	}
	return e
}

var _ primary.Resizer = (*exports)(nil)

// AddExport offers an export.
func (e *exports) AddExport(name string, x nbd.Export) error {
	if err := e.Server.AddExport(name, x); err != nil {
		return err
	}
	e.devices.Offer(name, x)
	e.mu.Lock()
	defer e.mu.Unlock()
	at, _ := slices.BinarySearch(e.names, name)
	e.names = slices.Insert(e.names, at, name)
	return nil
}

// RemoveExport withdraws an export and waits for its connections.
func (e *exports) RemoveExport(ctx context.Context, name string) error {
	e.mu.Lock()
	if at, ok := slices.BinarySearch(e.names, name); ok {
		e.names = slices.Delete(e.names, at, at+1)
	}
	e.mu.Unlock()
	e.devices.Withdraw(name)
	return e.Server.RemoveExport(ctx, name)
}

// ResizeExport tells that an export has become larger.
func (e *exports) ResizeExport(name string) { e.devices.Resized(name) }

// list returns what is served, with the URIs of each.
func (e *exports) list() []api.Export {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]api.Export, 0, len(e.names))
	for _, name := range e.names {
		x := api.Export{Name: name, URIs: []string{}}
		for _, base := range e.bases {
			u, err := url.Parse(base)
			if err != nil {
				continue // made above from a checked configuration
			}
			u.Path = "/" + name
			x.URIs = append(x.URIs, u.String())
		}
		out = append(out, x)
	}
	return out
}
