package agent

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
)

// end is one of the two devices of a volume.
type end struct {
	what    string
	agent   wire.AgentID
	name    string
	address string
	path    string
}

// postResize makes a volume larger. Whether its devices have the room their own agents say, before anything is decided: a
// target that is too small would stop the application of its group's sets.
func (s *apiServer) postResize(w http.ResponseWriter, r *http.Request) error {
	var q api.ResizeRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	if q.Size < 0 {
		return &api.Error{Code: api.Invalid, Text: fmt.Sprintf("size_bytes %d is negative", q.Size)}
	}
	var v cluster.Volume
	var source, target end
	var err error
	s.loop.View(func(n *core.Node) {
		var g *cluster.Group
		if g, err = groupNamed(n, r); err != nil {
			return
		}
		id := volumeNamed(g, r.PathValue("volume"))
		if id == 0 {
			err = noVolume(g, r.PathValue("volume"))
			return
		}
		v = *g.Volumes[id]
		source, target = endOf(n, "source", v.Primary, v.Source), endOf(n, "target", v.Secondary, v.Target)
		if q.Size != 0 {
			if tried := n.Try(cluster.Command{ResizeVolume: &cluster.ResizeVolume{Volume: v.ID, Size: q.Size}}); tried != nil {
				err = &api.Error{Code: api.Refused, Text: tried.Error()}
			}
		}
	})
	if err != nil {
		return err
	}
	has, err := s.sizeAt(r.Context(), &source)
	if err != nil {
		return err
	}
	if q.Size == 0 {
		q.Size = max(has/cluster.SizeUnit*cluster.SizeUnit, v.Size)
	}
	if err := enough(&source, has, q.Size, r); err != nil {
		return err
	}
	if has, err = s.sizeAt(r.Context(), &target); err != nil {
		return err
	}
	if err := enough(&target, has, q.Size, r); err != nil {
		return err
	}
	if _, err := s.propose(r.Context(), func(*core.Node) (cluster.Command, error) {
		return cluster.Command{ResizeVolume: &cluster.ResizeVolume{Volume: v.ID, Size: q.Size}}, nil
	}); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, api.Resizing{From: v.Size, To: q.Size})
	return nil
}

func endOf(n *core.Node, what string, agent wire.AgentID, path string) end {
	e := end{what: what, agent: agent, path: path}
	if a := n.State().Agents[agent]; a != nil {
		e.name, e.address = a.Name, a.Address
	}
	return e
}

// sizeAt asks an agent for the size of its device.
func (s *apiServer) sizeAt(ctx context.Context, e *end) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	var d api.Device
	path := "/v1/agent/device?" + url.Values{"path": {e.path}}.Encode()
	if err := s.client(e.agent, e.address).Call(ctx, http.MethodGet, path, nil, &d); err != nil {
		return 0, &api.Error{Code: api.CodeOf(err), Text: fmt.Sprintf("find the size of the %s %s on agent %q: %v", e.what, e.path, e.name, err)}
	}
	return d.Size, nil
}

// enough refuses a size that a device has no room for.
func enough(e *end, has, size int64, r *http.Request) error {
	if has >= size {
		return nil
	}
	return &api.Error{Code: api.Refused, Text: fmt.Sprintf(
		"the %s %s on agent %q has %d bytes and volume %s/%s is to have %d: enlarge it first (lvextend, truncate, losetup -c), or ask for at most %d",
		e.what, e.path, e.name, has, r.PathValue("group"), r.PathValue("volume"), size, has/cluster.SizeUnit*cluster.SizeUnit)}
}
