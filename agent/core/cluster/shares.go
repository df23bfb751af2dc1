package cluster

import (
	"fmt"
	"slices"

	"flotilla/wire"
)

// Shares says among whom portions are divided, and how. A grant and a loss record it as it was, so that no later change
// of a weight or a label moves what was granted.
type Shares struct {
	Members []wire.AgentID // ascending
	Weights []uint8        `cbor:",omitempty"` // of each member, 1 … MaxWeight; none when all are equal
	Domains []string       `cbor:",omitempty"` // failure domain of each member, "" where it is not known; none when none is
}

// place is a component and its failure domain.
type place struct {
	agent  wire.AgentID
	domain string
}

// Equal reports whether both divide portions in the same way.
func (s *Shares) Equal(o *Shares) bool {
	return slices.Equal(s.Members, o.Members) && slices.Equal(s.Weights, o.Weights) && slices.Equal(s.Domains, o.Domains)
}

// Percent returns how much of all portions a member owns on average.
func (s *Shares) Percent(a wire.AgentID) float64 {
	var all, own float64
	for i, m := range s.Members {
		w := float64(NominalWeight)
		if s.Weights != nil {
			w = float64(s.Weights[i])
		}
		all += w
		if m == a {
			own = w
		}
	}
	if all == 0 {
		return 0
	}
	return 100 * own / all
}

// owner returns the component that a portion falls to; its agent is 0 when there is none.
func (s *Shares) owner(p wire.Portion) place { return s.best(p, place{}, nil) }

// mirror returns the component that has the second copy of what owner has; its agent is 0 when there is no other. One
// copy is in one of the target domains if a component is there, and the copies are in different domains if they can be.
// A component whose domain is not known counts as alone in it.
func (s *Shares) mirror(p wire.Portion, owner place, targets []string) place {
	if slices.Contains(targets, owner.domain) {
		targets = nil
	}
	return s.best(p, owner, targets)
}

// best returns the first of the members but one by rank, and among equal ranks by rendezvous.
func (s *Shares) best(p wire.Portion, but place, targets []string) place {
	at := -1
	var best key
	for i, m := range s.Members {
		if m == but.agent {
			continue
		}
		k := key{hash: score(p, m), agent: m, weight: 1}
		if s.Weights != nil {
			k.weight, k.cost = uint64(s.Weights[i]), cost(k.hash)
		}
		if s.Domains != nil {
			switch d := s.Domains[i]; {
			case d != "" && slices.Contains(targets, d):
				k.rank = 2
			case d == "" || d != but.domain:
				k.rank = 1
			}
		}
		if at < 0 || k.better(&best) {
			at, best = i, k
		}
	}
	if at < 0 {
		return place{}
	}
	return place{agent: s.Members[at], domain: s.domain(at)}
}

func (s *Shares) domain(i int) string {
	if s.Domains == nil {
		return ""
	}
	return s.Domains[i]
}

// Eligible returns the members that assignments are made of: those that are not to leave, or all of them when there is
// no other.
func (s *State) Eligible() []wire.AgentID {
	stay := slices.DeleteFunc(slices.Clone(s.Members), func(m wire.AgentID) bool { return s.Agents[m] != nil && s.Agents[m].Drain })
	if len(stay) == 0 {
		return slices.Clone(s.Members)
	}
	return stay
}

// Shares returns how the sets that are granted now are divided.
func (s *State) Shares() Shares {
	sh := s.unweighed()
	weights := make([]uint8, len(sh.Members))
	equal := true
	for i, m := range sh.Members {
		weights[i] = s.Agents[m].ShareWeight()
		equal = equal && weights[i] == weights[0]
	}
	if !equal {
		sh.Weights = weights
	}
	return sh
}

// unweighed returns the shares without the weights. Second copies that a set had no component for follow them: every
// change of them has a MembersAt of its own.
func (s *State) unweighed() Shares {
	sh := Shares{Members: s.Eligible()}
	domains := make([]string, len(sh.Members))
	known := false
	for i, m := range sh.Members {
		if a := s.Agents[m]; a != nil {
			domains[i] = a.Domain
			known = known || a.Domain != ""
		}
	}
	if known {
		sh.Domains = domains
	}
	return sh
}

// ShareWeight returns the weight that an agent's share is made of.
func (a *Agent) ShareWeight() uint8 {
	if a == nil || a.Weight == 0 {
		return NominalWeight
	}
	return a.Weight
}

// Targets returns the failure domains of a group's secondaries that no primary of it is in, ascending: what is there
// outlives the primaries' sites.
func (s *State) Targets(g *Group) []string {
	var targets, sources []string
	add := func(to []string, id wire.AgentID) []string {
		if a := s.Agents[id]; a != nil && a.Domain != "" && !slices.Contains(to, a.Domain) {
			to = append(to, a.Domain)
		}
		return to
	}
	for _, v := range g.Volumes {
		targets, sources = add(targets, v.Secondary), add(sources, v.Primary)
	}
	targets = slices.DeleteFunc(targets, func(d string) bool { return slices.Contains(sources, d) })
	slices.Sort(targets)
	return targets
}

// Exposed returns the failure domain whose loss would take primaries of a group and both copies of new updates together,
// though its targets are elsewhere: the one that all components are in as far as labels tell. It is "" when there is none.
func (s *State) Exposed(g *Group) string {
	if len(s.Targets(g)) == 0 {
		return ""
	}
	domain := ""
	for _, d := range s.unweighed().Domains {
		if d != "" && domain != "" && d != domain {
			return ""
		}
		domain = max(domain, d)
	}
	for _, v := range g.Volumes {
		if a := s.Agents[v.Primary]; a != nil && a.Domain == domain {
			return domain
		}
	}
	return ""
}

// maxDomain bounds the length of a domain's name.
const maxDomain = 63

// CheckDomain says what is wrong with the name of a failure domain; "" is the one of who has none.
func CheckDomain(domain string) error {
	if len(domain) > maxDomain {
		return fmt.Errorf("a failure domain's name of %d bytes is longer than %d: choose a shorter one", len(domain), maxDomain)
	}
	for _, c := range []byte(domain) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return fmt.Errorf("failure domain %q: want letters, digits, dots, hyphens and underscores", domain)
		}
	}
	return nil
}

// setAgent changes an agent's label and weight. Sets that are granted keep theirs.
func (s *State) setAgent(index uint64, c *SetAgent) error {
	a := s.Agents[c.Agent]
	if a == nil {
		return fmt.Errorf("set agent: there is no agent %d", c.Agent)
	}
	if c.Weight != nil && !a.Backup {
		return fmt.Errorf("set agent %q: it has no backup role, and so no weight", a.Name)
	}
	if c.Domain != nil {
		if err := CheckDomain(*c.Domain); err != nil {
			return fmt.Errorf("set agent %q: %w", a.Name, err)
		}
		if a.Domain != *c.Domain && s.IsMember(a.ID) {
			s.MembersAt, s.Settled = index, 0 // assignments without a second component follow the labels
		}
		a.Domain = *c.Domain
	}
	if c.Weight != nil {
		a.Weight, a.WeightFixed = *c.Weight, *c.Weight != 0
	}
	return nil
}

// weigh takes the captain's measure of a member, unless an operator has fixed its weight.
func (s *State) weigh(c *Weigh) {
	if a := s.Agents[c.Agent]; a != nil && !a.WeightFixed && c.MembersAt == s.MembersAt && s.IsMember(a.ID) {
		a.Weight = c.Weight
	}
}
