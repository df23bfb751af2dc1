package agent

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
	"flotilla/wire/identity"
)

// How long tokens may live.
const (
	minTokenLife = time.Second
	maxTokenLife = 30 * 24 * time.Hour
)

// An agent is admitted in these steps; only an agent with the CA's key takes them:
//
//  1. postToken draws a token, has the captain record its hash, and gives its text away once.
//  2. The joiner checks the CA's fingerprint in the token, and sends the secret with a signing request: postJoin.
//  3. The captain proposes the agent with the token's hash. The state machine refuses a token that is unknown, spent or
//     expired, and spends it in the same step, so that it admits one agent.
//  4. The certificate is issued for the number that the state gave.
//
// When the last answer is lost the agent is in the cluster and has no certificate: it is removed, and joins anew.

// postToken makes a join token. An agent without the CA's key has the agent that founded the cluster do it.
func (s *apiServer) postToken(w http.ResponseWriter, r *http.Request) error {
	if s.ca == nil {
		return s.passToFounder(w, r)
	}
	var q api.TokenRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	ttl, err := tokenLife(q.TTLSeconds)
	if err != nil {
		return err
	}
	token, err := identity.NewToken(s.ca.Cluster(), s.address, s.ca.Fingerprint(), time.Now().Add(ttl))
	if err != nil {
		return err
	}
	hash := token.SecretHash()
	err = s.askCaptain(r.Context(), "/v1/token-hashes", api.TokenHash{Hash: hex.EncodeToString(hash[:]), TTLSeconds: q.TTLSeconds}, nil)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, api.Token{Token: token.Text(), Expires: token.Expires})
	return nil
}

func tokenLife(seconds int64) (time.Duration, error) {
	if seconds < int64(minTokenLife/time.Second) || seconds > int64(maxTokenLife/time.Second) {
		return 0, &api.Error{Code: api.Invalid, Text: fmt.Sprintf("a token's life of %d s is not between %v and %v", seconds, minTokenLife, maxTokenLife)}
	}
	return time.Duration(seconds) * time.Second, nil
}

// passToFounder passes a request on to the agent that made the cluster: it has the CA's key.
func (s *apiServer) passToFounder(w http.ResponseWriter, r *http.Request) error {
	var id wire.AgentID
	var address string
	s.loop.View(func(n *core.Node) {
		for _, x := range cluster.SortedKeys(n.State().Agents) {
			if a := n.State().Agents[x]; !a.Behind {
				id, address = x, a.Address
				break
			}
		}
	})
	if id == 0 || id == s.id || passedOn(r) {
		return &api.Error{Code: api.Refused, Text: "this agent has no CA key: ask on the agent on which `flotilla cluster init` ran"}
	}
	return s.passOn(w, r, id, address)
}

// postTokenHash records a token, on the captain, whose clock its end is on.
func (s *apiServer) postTokenHash(w http.ResponseWriter, r *http.Request) error {
	var q api.TokenHash
	if err := readJSON(r, &q); err != nil {
		return err
	}
	if raw, err := hex.DecodeString(q.Hash); err != nil || len(raw) != sha256.Size {
		return &api.Error{Code: api.Invalid, Text: "a token's hash is a SHA-256 in hexadecimal digits"}
	}
	ttl, err := tokenLife(q.TTLSeconds)
	if err != nil {
		return err
	}
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		return cluster.Command{AddToken: &cluster.AddToken{Hash: q.Hash, Expires: n.Label() + int64(ttl)}}, nil
	})
}

// postAgent adds an agent by a token, on the captain.
func (s *apiServer) postAgent(w http.ResponseWriter, r *http.Request) error {
	var q api.AgentRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	add, err := addAgent(&q)
	if err != nil {
		return err
	}
	return s.change(w, r, func(n *core.Node) (cluster.Command, error) {
		add.Label = n.Label()
		return cluster.Command{AddAgent: add}, nil
	})
}

// addAgent checks what is asked for. Without a token nobody is added over the API.
func addAgent(q *api.AgentRequest) (*cluster.AddAgent, error) {
	invalid := func(format string, args ...any) (*cluster.AddAgent, error) {
		return nil, &api.Error{Code: api.Invalid, Text: "join: " + fmt.Sprintf(format, args...)}
	}
	if err := identity.CheckName(q.Name); err != nil {
		return invalid("%v", err)
	}
	if remedy := checkAdvertised("advertise", q.Address); remedy != "" {
		return invalid("address %q: %s", q.Address, remedy)
	}
	if q.ComponentAddress != "" {
		if remedy := checkAdvertised("component_advertise", q.ComponentAddress); remedy != "" {
			return invalid("component address %q: %s", q.ComponentAddress, remedy)
		}
	}
	if err := cluster.CheckDomain(q.Domain); err != nil {
		return invalid("%v", err)
	}
	if q.TokenHash == "" {
		return invalid("no token is given")
	}
	add := &cluster.AddAgent{Name: q.Name, Address: q.Address, ComponentAddress: q.ComponentAddress, TokenHash: q.TokenHash, Domain: q.Domain}
	for _, role := range q.Roles {
		switch Role(role) {
		case Primary:
			add.Primary = true
		case Backup:
			add.Backup = true
		case Secondary:
			add.Secondary = true
		default:
			return invalid("role %q: choose among primary, backup, secondary", role)
		}
	}
	if q.ComponentAddress != "" && !add.Backup {
		return invalid("component address %q: only an agent with the role backup has one: leave component_listen and component_advertise out", q.ComponentAddress)
	}
	if !add.Primary && !add.Backup && !add.Secondary {
		return invalid("an agent needs a role: primary, backup or secondary")
	}
	return add, nil
}

// askCaptain makes a request of this agent's own to the captain, through its own interface when it is the captain.
func (s *apiServer) askCaptain(ctx context.Context, path string, in, out any) error {
	id, address, err := s.captain(ctx)
	if err != nil {
		return err
	}
	return s.client(id, address).Call(ctx, http.MethodPost, path, in, out)
}

// joinHandler serves joiners, who have no certificate.
func (s *apiServer) joinHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /join", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxJoinRequest)
		answer, err := s.join(r)
		if err != nil {
			s.log.Warn("join refused", "remote", r.RemoteAddr, "err", err)
			writeError(w, err)
			return
		}
		s.log.Info("agent joined", "agent", answer.Agent, "remote", r.RemoteAddr)
		writeJSON(w, http.StatusOK, answer)
	})
	return mux
}

const maxJoinRequest = 64 << 10

func (s *apiServer) join(r *http.Request) (*api.JoinAnswer, error) {
	if s.ca == nil {
		return nil, &api.Error{Code: api.Refused, Text: "join: this agent has no CA key: make a token with `flotilla cluster token`, it names the agent that has it"}
	}
	var q api.JoinRequest
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	// What can be refused is refused before the token is spent.
	csr, err := x509.ParseCertificateRequest(q.Request)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, &api.Error{Code: api.Invalid, Text: fmt.Sprintf("join: read signing request: %v", err)}
	}
	hash := sha256.Sum256(q.Secret)
	ask := api.AgentRequest{Name: q.Name, Address: q.Address, ComponentAddress: q.ComponentAddress, Roles: q.Roles, TokenHash: hex.EncodeToString(hash[:]), Domain: q.Domain}
	if _, err := addAgent(&ask); err != nil {
		return nil, err
	}
	var made api.Made
	if err := s.askCaptain(r.Context(), "/v1/agents", ask, &made); err != nil {
		return nil, err
	}
	cert, err := s.ca.Issue(q.Request, wire.AgentID(made.ID), q.Name, s.policy.Now())
	if err != nil {
		return nil, fmt.Errorf("join: agent %q is in the cluster as number %d, but: %w; remove it with `flotilla component remove %s`",
			q.Name, made.ID, err, q.Name)
	}
	answer := &api.JoinAnswer{Agent: made.ID, Certificate: cert, CA: s.ca.Certificate().Raw}
	s.loop.View(func(n *core.Node) {
		answer.Generation = n.State().Generation
		for _, id := range cluster.SortedKeys(n.State().Agents) {
			a := n.State().Agents[id]
			if a.Behind {
				continue
			}
			answer.Peers = append(answer.Peers, api.Peer{ID: uint64(id), Name: a.Name, Address: a.Address})
		}
	})
	return answer, nil
}
