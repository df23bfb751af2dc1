package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
	"flotilla/wire/identity"
)

// expiryAlarm is raised when less than a sixth of a certificate's life is left.
const expiryAlarm = "certificate-expires"

// validities are what an agent has last heard of other agents' certificates. An agent that cannot be asked keeps its entry:
// its certificate runs out all the same.
type validities struct {
	mu sync.Mutex
	of map[wire.AgentID]api.Validity
}

func newValidities() *validities { return &validities{of: map[wire.AgentID]api.Validity{}} }

func (v *validities) note(id wire.AgentID, valid api.Validity) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.of[id] = valid
}

func (v *validities) get(id wire.AgentID) (valid api.Validity, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	valid, known = v.of[id]
	return valid, known
}

// keep forgets all agents but those.
func (v *validities) keep(agents []api.Peer) {
	kept := map[wire.AgentID]api.Validity{}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, a := range agents {
		if valid, ok := v.of[wire.AgentID(a.ID)]; ok {
			kept[wire.AgentID(a.ID)] = valid
		}
	}
	v.of = kept
}

// otherAgents returns the other agents of the cluster's state, ascending.
func (s *apiServer) otherAgents() (peers []api.Peer) {
	s.loop.View(func(n *core.Node) {
		for _, id := range cluster.SortedKeys(n.State().Agents) {
			if id != s.id {
				a := n.State().Agents[id]
				peers = append(peers, api.Peer{ID: uint64(id), Name: a.Name, Address: a.Address})
			}
		}
	})
	return peers
}

// lookAround asks the other agents for the validity of their certificates.
func (r *renewer) lookAround(ctx context.Context) {
	peers := r.api.otherAgents()
	for _, p := range peers {
		ctx, cancel := context.WithTimeout(ctx, forwardTime)
		id := wire.AgentID(p.ID)
		l, err := r.api.client(id, p.Address).Local(ctx, "")
		cancel()
		if err == nil && !l.Certificate.Until.IsZero() {
			r.api.known.note(id, l.Certificate)
		}
	}
	r.api.known.keep(peers)
}

// ownExpiry returns the alarms about this agent's certificate.
func (s *apiServer) ownExpiry() []api.Alarm {
	own := s.creds()
	return s.expiryAlarms(own.Name, api.Validity{From: own.Cert.NotBefore, Until: own.Cert.NotAfter})
}

// othersExpiry returns the alarms about certificates of other agents, as they were when last heard of.
func (s *apiServer) othersExpiry() (alarms []api.Alarm) {
	for _, p := range s.otherAgents() {
		if valid, ok := s.known.get(wire.AgentID(p.ID)); ok {
			alarms = append(alarms, s.expiryAlarms(p.Name, valid)...)
		}
	}
	return alarms
}

func (s *apiServer) expiryAlarms(name string, valid api.Validity) []api.Alarm {
	now := s.policy.Now()
	if !identity.ExpiresSoon(valid.From, valid.Until, now) {
		return nil
	}
	until := valid.Until.UTC().Format(time.RFC3339)
	text := fmt.Sprintf("its certificate is valid until %s and was not renewed: afterwards it is refused by all others", until)
	if now.After(valid.Until) {
		text = fmt.Sprintf("its certificate ran out on %s: new connections with it are refused", until)
	}
	remedy := renewRemedy
	if !s.creds().Root.NotAfter.After(valid.Until) {
		remedy = caRemedy
	}
	return []api.Alarm{{Name: expiryAlarm, Agent: name, Text: text, Remedy: remedy}}
}

// addAlarms adds alarms to another agent's status document, those that it does not have. What this version does not know
// of the document stays as it is.
func addAlarms(document json.RawMessage, more []api.Alarm) (json.RawMessage, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(document, &keys); err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	var have []json.RawMessage
	if err := json.Unmarshal(keys["alarms"], &have); err != nil {
		return nil, fmt.Errorf("read alarms of status: %w", err)
	}
	type key struct{ name, agent string }
	known := map[key]bool{}
	for _, text := range have {
		var a api.Alarm
		if err := json.Unmarshal(text, &a); err != nil {
			return nil, fmt.Errorf("read alarm of status: %w", err)
		}
		known[key{a.Name, a.Agent}] = true
	}
	for _, a := range more {
		if known[key{a.Name, a.Agent}] {
			continue
		}
		text, err := json.Marshal(a)
		if err != nil {
			return nil, fmt.Errorf("write alarm: %w", err)
		}
		have = append(have, text)
	}
	text, err := json.Marshal(have)
	if err != nil {
		return nil, fmt.Errorf("write alarms: %w", err)
	}
	keys["alarms"] = text
	return json.Marshal(keys)
}
