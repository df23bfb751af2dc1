package demo

import (
	"context"
	"errors"
	"fmt"

	"flotilla/internal/fleet"
)

// agents are those of the demo, by what they are there for.
type agents struct {
	*fleet.Fleet
	components []*fleet.Host
	primaries  []*fleet.Host
	secondary  *fleet.Host
}

// newAgents makes the files of all agents, components first: one of them founds the cluster.
func newAgents(o Options, dir string, fail context.CancelCauseFunc) (*agents, error) {
	a := &agents{Fleet: fleet.New(o.Program, dir, fail)}
	var err error
	add := func(name, roles string) *fleet.Host {
		if err != nil {
			return nil
		}
		var h *fleet.Host
		h, err = a.Add(fleet.Member{Name: name, Roles: roles})
		return h
	}
	for i := range o.Components {
		a.components = append(a.components, add(fmt.Sprintf("component%d", i+1), "backup"))
	}
	for i := range 2 {
		a.primaries = append(a.primaries, add(fmt.Sprintf("primary%d", i+1), "primary"))
	}
	a.secondary = add("secondary", "secondary")
	if errors.Is(err, fleet.ErrDirectory) {
		err = fmt.Errorf("%w: %w", ErrOptions, err)
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}
