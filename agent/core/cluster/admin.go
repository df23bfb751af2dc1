package cluster

import (
	"fmt"
	"slices"

	"flotilla/wire"
)

func (s *State) addAgent(c *AddAgent) (uint64, error) {
	if c.TokenHash != "" {
		switch t := s.Tokens[c.TokenHash]; {
		case t == nil:
			return 0, fmt.Errorf("join: this token is not known to the cluster: make one with `flotilla cluster token`")
		case t.Spent:
			return 0, fmt.Errorf("join: this token was used already: make another with `flotilla cluster token`")
		case c.Label > t.Expires:
			return 0, fmt.Errorf("join: this token has expired: make another with `flotilla cluster token`")
		}
	}
	if c.Name == "" || c.Address == "" {
		return 0, fmt.Errorf("join: an agent needs a name and an address, have %q and %q", c.Name, c.Address)
	}
	if c.ComponentAddress != "" && !c.Backup {
		return 0, fmt.Errorf("join: agent %q has the address %s for components and is none: leave it out", c.Name, c.ComponentAddress)
	}
	if err := CheckDomain(c.Domain); err != nil {
		return 0, fmt.Errorf("join: %w", err)
	}
	if a := s.AgentByName(c.Name); a != nil {
		return 0, fmt.Errorf("join: the cluster has an agent named %q already (agent %d at %s): choose another name", c.Name, a.ID, a.Address)
	}
	if c.TokenHash != "" {
		s.Tokens[c.TokenHash].Spent = true
	}
	id := s.NextAgent
	s.NextAgent++
	s.Agents[id] = &Agent{
		ID: id, Name: c.Name, Address: c.Address, Serial: c.Serial,
		Primary: c.Primary, Backup: c.Backup, Secondary: c.Secondary, Domain: c.Domain,
		ComponentAddress: c.ComponentAddress,
	}
	return uint64(id), nil
}

func (s *State) removeAgent(c *RemoveAgent) error {
	a := s.Agents[c.Agent]
	if a == nil {
		return fmt.Errorf("remove agent: there is no agent %d", c.Agent)
	}
	if s.IsMember(a.ID) {
		return fmt.Errorf("remove agent %q: it is a backup component of the current view: drain it first", a.Name)
	}
	for _, g := range s.Groups {
		for _, v := range g.Volumes {
			if v.Primary == a.ID || v.Secondary == a.ID {
				return fmt.Errorf("remove agent %q: volume %q uses it: delete the volume first", a.Name, v.Name)
			}
		}
	}
	delete(s.Agents, a.ID)
	return nil
}

func (s *State) createGroup(c *CreateGroup) (uint64, error) {
	if c.Name == "" {
		return 0, fmt.Errorf("create group: it needs a name")
	}
	if g := s.GroupByName(c.Name); g != nil {
		return 0, fmt.Errorf("create group: there is a group named %q already", c.Name)
	}
	g := &Group{
		ID: s.NextGroup, Name: c.Name, Mode: c.Mode, PeriodMS: c.PeriodMS, SetBytes: c.SetBytes, PortionSize: c.PortionSize,
		ResyncRate: c.ResyncRate, Bandwidth: c.Bandwidth, Spool: c.Spool, Contract: c.Contract,
		Phase: Replicating, Volumes: map[wire.VolumeID]*Volume{}, Verdicts: map[wire.Set]bool{},
	}
	if g.Mode == 0 {
		g.Mode = Async
	}
	if g.PeriodMS == 0 {
		g.PeriodMS = DefaultPeriodMS
	}
	if g.SetBytes == 0 {
		g.SetBytes = DefaultSetBytes
	}
	if g.PortionSize == 0 {
		g.PortionSize = wire.DefaultPortionSize
	}
	if err := g.validate(); err != nil {
		return 0, fmt.Errorf("create group %q: %w", c.Name, err)
	}
	s.NextGroup++
	s.Groups[g.ID] = g
	return uint64(g.ID), nil
}

func (g *Group) validate() error {
	if g.Mode != Async && g.Mode != Sync {
		return fmt.Errorf("mode %d is neither async nor sync", g.Mode)
	}
	if g.PeriodMS < MinPeriodMS || g.PeriodMS > MaxPeriodMS {
		return fmt.Errorf("a period of %d ms is outside %d ms … 1 h", g.PeriodMS, MinPeriodMS)
	}
	if g.SetBytes < MinSetBytes {
		return fmt.Errorf("a set limit of %d bytes is below %d", g.SetBytes, MinSetBytes)
	}
	if g.ResyncRate != 0 && g.ResyncRate < MinResyncRate {
		return fmt.Errorf("a resync rate of %d bytes a second is below %d", g.ResyncRate, MinResyncRate)
	}
	if g.Bandwidth != 0 && g.Bandwidth < MinBandwidth {
		return fmt.Errorf("a bandwidth of %d bytes a second is below %d", g.Bandwidth, MinBandwidth)
	}
	if g.Spool > 0 && g.Spool < MinSpool {
		return fmt.Errorf("a spool of %d bytes is below %d: give it at least that, or none", g.Spool, MinSpool)
	}
	if g.PortionSize < 1<<20 || g.PortionSize > 1<<31 || g.PortionSize&(g.PortionSize-1) != 0 {
		return fmt.Errorf("a portion size of %d bytes is not a power of two from 1 MiB to 2 GiB", g.PortionSize)
	}
	if err := g.Contract.validate(g.Mode); err != nil {
		return err
	}
	return g.CheckSchedule.validate()
}

func (s *State) setGroup(index uint64, c *SetGroup) error {
	g := s.Groups[c.Group]
	if g == nil {
		return fmt.Errorf("set group: there is no group %d", c.Group)
	}
	changed := *g
	if c.Mode != 0 && c.Mode != g.Mode && len(g.Volumes) > 0 {
		return fmt.Errorf("set group %q: its mode is %s and can not be changed while it has volumes: make another group", g.Name, g.Mode)
	}
	if c.Mode != 0 {
		changed.Mode = c.Mode
	}
	if c.PeriodMS != 0 {
		changed.PeriodMS = c.PeriodMS
	}
	if c.SetBytes != 0 {
		changed.SetBytes = c.SetBytes
	}
	if c.Schedule != nil {
		changed.CheckSchedule = *c.Schedule
	}
	if c.ResyncRate != nil {
		changed.ResyncRate = *c.ResyncRate
	}
	if c.Bandwidth != nil {
		changed.Bandwidth = *c.Bandwidth
	}
	if c.Spool != nil {
		changed.Spool = *c.Spool
	}
	contract := g.Contract
	if c.OnDegraded != nil {
		contract.OnDegraded = *c.OnDegraded
	}
	if c.DegradeAfterMS != nil {
		contract.DegradeAfterMS = *c.DegradeAfterMS
	}
	changed.setContract(index, contract)
	if err := changed.validate(); err != nil {
		return fmt.Errorf("set group %q: %w", g.Name, err)
	}
	*g = changed
	return nil
}

func (s *State) deleteGroup(c *DeleteGroup) error {
	g := s.Groups[c.Group]
	if g == nil {
		return fmt.Errorf("delete group: there is no group %d", c.Group)
	}
	if len(g.Volumes) > 0 {
		return fmt.Errorf("delete group %q: it has %d volumes: delete them first", g.Name, len(g.Volumes))
	}
	delete(s.Groups, g.ID)
	s.pruneLosses()
	return nil
}

func (s *State) createVolume(c *CreateVolume) (uint64, error) {
	g := s.Groups[c.Group]
	if g == nil {
		return 0, fmt.Errorf("create volume %q: there is no group %d", c.Name, c.Group)
	}
	fail := func(format string, args ...any) (uint64, error) {
		return 0, fmt.Errorf("create volume %q in group %q: %s", c.Name, g.Name, fmt.Sprintf(format, args...))
	}
	p, sec := s.Agents[c.Primary], s.Agents[c.Secondary]
	switch {
	case g.Phase != Replicating:
		return fail("the group is %s", g.Phase)
	case c.Name == "":
		return fail("it needs a name")
	case c.Size <= 0:
		return fail("a size of %d bytes is not positive", c.Size)
	case p == nil || !p.Primary:
		return fail("agent %d has no primary role", c.Primary)
	case sec == nil || !sec.Secondary:
		return fail("agent %d has no secondary role", c.Secondary)
	}
	if ps := g.Primaries(); g.Degraded != nil && len(ps) > 0 && !slices.Contains(ps, c.Primary) {
		return fail("the group is degraded and agent %q would be another primary of it: wait until it is synchronous again", p.Name)
	}
	for _, other := range g.Volumes {
		if other.Name == c.Name {
			return fail("the group has a volume of that name")
		}
	}
	for _, gid := range SortedKeys(s.Groups) {
		for _, other := range s.Groups[gid].Volumes {
			if other.Secondary == c.Secondary && other.Target == c.Target {
				return fail("target %s on agent %q belongs to volume %q", c.Target, sec.Name, other.Name)
			}
			if other.Primary == c.Primary && other.Source == c.Source {
				return fail("source %s on agent %q belongs to volume %q", c.Source, p.Name, other.Name)
			}
		}
	}
	v := &Volume{
		ID: s.NextVolume, Name: c.Name, Size: c.Size,
		Primary: c.Primary, Source: c.Source, Secondary: c.Secondary, Target: c.Target, Seeded: c.Seeded, BitmapAtEnd: c.BitmapAtEnd,
		Overwrite: c.Overwrite,
	}
	s.NextVolume++
	g.Volumes[v.ID] = v
	return uint64(v.ID), nil
}

func (s *State) deleteVolume(c *DeleteVolume) error {
	g, v := s.Volume(c.Volume)
	if v == nil {
		return fmt.Errorf("delete volume: there is no volume %d", c.Volume)
	}
	if g.Phase == Promoting {
		return fmt.Errorf("delete volume %q: group %q is promoting: wait for its end", v.Name, g.Name)
	}
	delete(g.Volumes, v.ID)
	if !slices.Contains(g.Primaries(), v.Primary) {
		for _, inc := range g.Incs {
			if inc.Primary == v.Primary {
				inc.Ended = true // nothing more comes of a primary without volumes
			}
		}
		g.voidGranted()
	}
	return nil
}
