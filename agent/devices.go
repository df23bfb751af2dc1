package agent

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/device"
	"flotilla/nbd"
)

// newDevices makes who attaches exports as block devices of this host.
func (a *Agent) newDevices(server *nbd.Server) (*device.Manager, error) {
	own := a.credentials()
	o := device.Options{
		Server: server, File: a.dir.devices(), Logger: a.log,
		Identity: fmt.Sprintf("%v.%d", own.Cluster, own.Agent),
		Events:   a.deviceEvent,
	}
	if a.opt.Sockets != nil {
		o.Keeper = a.opt.Sockets
	}
	return device.New(o)
}

// deviceEvent shows what has become of a device.
func (a *Agent) deviceEvent(name, volume string, attrs ...any) {
	a.parts.events.take([]core.Event{{Name: name, At: a.loop.Now(), Attrs: append([]any{"volume", volume}, attrs...)}})
}

// startDevices attaches again what was attached. It is closed before the roles, so that nothing of their end reaches the
// kernel: its requests wait for the next agent.
func (a *Agent) startDevices() error {
	m := a.parts.exports.devices
	a.onClose(m.Close)
	return m.Start()
}

func (s *apiServer) devices() []api.BlockDevice {
	out := []api.BlockDevice{}
	for _, d := range s.attached.List() {
		out = append(out, blockDevice(d))
	}
	return out
}

func blockDevice(d device.Info) api.BlockDevice {
	return api.BlockDevice{
		Volume: d.Volume, Device: d.Device, Link: d.Link, Served: d.Served, Error: d.Error, Lacks: d.Lacks,
		TimeoutSeconds: int64(d.Timeout / time.Second), DeadTimeoutSeconds: int64(d.DeadTimeout / time.Second),
	}
}

// hostOnly refuses what only commands on this host may ask for.
func hostOnly(h failing) failing {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.TLS != nil {
			return &api.Error{Code: api.Refused, Text: "devices are attached by commands on their own host"}
		}
		return h(w, r)
	}
}

func (s *apiServer) postDevice(w http.ResponseWriter, r *http.Request) error {
	var q api.AttachRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	spec := device.Spec{
		Volume: q.Volume, Index: -1, Timeout: time.Duration(q.TimeoutSeconds) * time.Second, DeadTimeout: time.Duration(q.DeadTimeoutSeconds) * time.Second,
	}
	if q.Index != nil {
		spec.Index = *q.Index
	}
	d, err := s.attached.Attach(spec)
	if err != nil {
		return deviceError(err)
	}
	writeJSON(w, http.StatusOK, blockDevice(d))
	return nil
}

func (s *apiServer) deleteDevice(w http.ResponseWriter, r *http.Request) error {
	volume := r.PathValue("group") + "/" + r.PathValue("volume")
	if err := s.attached.Detach(volume, r.URL.Query().Get("force") != ""); err != nil {
		return deviceError(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func deviceError(err error) error {
	code := api.Refused
	if errors.Is(err, device.ErrNotOffered) || errors.Is(err, device.ErrNotAttached) {
		code = api.NotFound
	}
	return &api.Error{Code: code, Text: err.Error()}
}
