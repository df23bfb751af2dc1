package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/device"
	"flotilla/wire"
	"flotilla/wire/identity"
)

// Limits of the API's connections.
const (
	maxAPIConns  = 64
	maxJoinConns = 16
	apiReadTime  = 30 * time.Second // for a whole request
	forwardTime  = 10 * time.Second // for an answer of another agent
	maxEventWait = 60 * time.Second
)

// hopHeader marks a request that an agent has passed on. It is not passed on again.
const hopHeader = "Flotilla-Passed-On"

// apiServer answers the API of package api, on the admin socket and to other agents.
type apiServer struct {
	proposer
	log     *slog.Logger
	id      wire.AgentID
	events  *eventLog
	metrics http.Handler
	ca      *identity.CA // nil on agents that cannot admit others
	creds   func() *identity.Credentials
	known   *validities // certificates of others
	policy  identity.Policy
	address string // at which others reach this agent
	socket  string // at which it reaches itself
	behind  func(wire.AgentID) bool
	local   func() api.Local

	attached *device.Manager

	mu      sync.Mutex
	clients map[wire.AgentID]peerClient // to other agents, by need
}

type peerClient struct {
	address string
	*api.Client
}

// failing is a handler that returns its failure.
type failing func(w http.ResponseWriter, r *http.Request) error

// handler returns the interface of package api.
func (s *apiServer) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h failing) { mux.Handle(pattern, s.answer(h)) }
	handle("GET /v1/status", s.getStatus)
	handle("GET /v1/events", s.getEvents)
	handle("GET /v1/agent", s.getLocal)
	handle("GET /v1/agent/device", s.getDevice)
	handle("GET /v1/agents/{agent}", s.onAgent("/v1/agent"))
	handle("GET /v1/agents/{agent}/device", s.onAgent("/v1/agent/device"))
	handle("POST /v1/agent/devices", hostOnly(s.postDevice))
	handle("DELETE /v1/agent/devices/{group}/{volume}", hostOnly(s.deleteDevice))
	handle("POST /v1/tokens", s.postToken)
	handle("POST /v1/certificates", s.postCertificate)
	for pattern, h := range map[string]failing{
		"POST /v1/token-hashes":                           s.postTokenHash,
		"POST /v1/agents":                                 s.postAgent,
		"DELETE /v1/agents/{agent}":                       s.deleteAgent,
		"PATCH /v1/agents/{agent}":                        s.patchAgent,
		"POST /v1/agents/{agent}/drain":                   s.postDrain,
		"POST /v1/groups":                                 s.postGroup,
		"PATCH /v1/groups/{group}":                        s.patchGroup,
		"DELETE /v1/groups/{group}":                       s.deleteGroup,
		"POST /v1/groups/{group}/volumes":                 s.postVolume,
		"DELETE /v1/groups/{group}/volumes/{volume}":      s.deleteVolume,
		"POST /v1/groups/{group}/volumes/{volume}/recopy": s.postRecopy,
		"POST /v1/groups/{group}/volumes/{volume}/resize": s.postResize,
		"POST /v1/groups/{group}/check":                   s.postCheck,
		"DELETE /v1/groups/{group}/check":                 s.deleteCheck,
		"GET /v1/groups/{group}/promote":                  s.getPlan,
		"POST /v1/groups/{group}/promote":                 s.postPromote,
	} {
		handle(pattern, s.onCaptain(h))
	}
	mux.Handle("GET /metrics", s.metrics)
	handle("/", func(_ http.ResponseWriter, r *http.Request) error {
		return &api.Error{Code: api.NotFound, Text: fmt.Sprintf("%s %s is not part of this agent's interface", r.Method, r.URL.Path)}
	})
	return mux
}

// answer bounds the request and turns a failure into its document.
func (s *apiServer) answer(h failing) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, api.MaxRequest)
		err := s.checkPeer(r)
		if err == nil {
			err = h(w, r)
		}
		if err != nil {
			writeError(w, err)
		}
	})
}

// checkPeer refuses an agent that was taken out of the cluster after its connection was made. The socket of the host
// has no certificates: who may open it is the host's to say.
func (s *apiServer) checkPeer(r *http.Request) error {
	if r.TLS == nil || s.policy.Revoked == nil {
		return nil
	}
	if len(r.TLS.PeerCertificates) == 0 {
		return &api.Error{Code: api.Refused, Text: "only agents of the cluster may ask"}
	}
	peer, err := identity.PeerOf(r.TLS.PeerCertificates[0])
	if err == nil && s.policy.Revoked(peer.Agent, peer.Serial) {
		err = fmt.Errorf("agent %d (%s) was taken out of the cluster", peer.Agent, peer.Name)
	}
	if err == nil && s.behind(peer.Agent) {
		err = fmt.Errorf("agent %d (%s) is not of this generation of the cluster, which has gone on without it", peer.Agent, peer.Name)
	}
	if err != nil {
		return &api.Error{Code: api.Refused, Text: err.Error()}
	}
	return nil
}

func writeError(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		e = &api.Error{Code: api.Internal, Text: err.Error()}
	}
	writeJSON(w, e.HTTPStatus(), e)
}

// writeJSON sends a document. A client that went away is no concern of the agent's.
func writeJSON(w http.ResponseWriter, status int, document any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(document)
}

// readJSON reads a request's body, in which every key must be known.
func readJSON(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &api.Error{Code: api.Invalid, Text: fmt.Sprintf("read request: %v", err)}
	}
	return nil
}

// onCaptain has a request answered by the captain. While the captain dies and another is elected it waits a little: a
// request that was not sent, or was refused because the captain had changed, is sent again.
func (s *apiServer) onCaptain(h failing) failing {
	return func(w http.ResponseWriter, r *http.Request) error {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return &api.Error{Code: api.Invalid, Text: fmt.Sprintf("read request: %v", err)}
		}
		for until := time.Now().Add(captainWait); ; {
			r.Body = io.NopCloser(bytes.NewReader(body))
			id, address, err := s.captain(r.Context())
			switch {
			case err != nil:
				return err
			case id == s.id:
				err = h(w, r) // when it is unavailable it has answered nothing
			default:
				err = s.passOn(w, r, id, address)
			}
			if api.CodeOf(err) != api.Unavailable || passedOn(r) || time.Now().After(until) {
				return err
			}
			select {
			case <-time.After(captainAgain):
			case <-r.Context().Done():
				return err
			}
		}
	}
}

// captainAgain is the pause before a request is tried again with whoever is captain then.
const captainAgain = 200 * time.Millisecond

// passedOn reports whether another agent sent a request on to this one.
func passedOn(r *http.Request) bool { return r.Header.Get(hopHeader) != "" }

// onAgent has a request answered by the agent that its path names, as path there.
func (s *apiServer) onAgent(path string) failing {
	return func(w http.ResponseWriter, r *http.Request) error {
		var id wire.AgentID
		var address string
		name := r.PathValue("agent")
		s.loop.View(func(n *core.Node) {
			if a := n.State().AgentByName(name); a != nil {
				id, address = a.ID, a.Address
			}
		})
		if id == 0 {
			return noAgent(name)
		}
		r.URL.Path, r.URL.RawPath = path, ""
		if id == s.id {
			if path == "/v1/agent/device" {
				return s.getDevice(w, r)
			}
			return s.getLocal(w, r)
		}
		return s.passOn(w, r, id, address)
	}
}

// passOn sends a request to another agent and its answer back.
func (s *apiServer) passOn(w http.ResponseWriter, r *http.Request, id wire.AgentID, address string) error {
	status, document, err := s.fetch(r, id, address)
	if err == nil {
		writeJSON(w, status, document)
	}
	return err
}

// fetch sends a request to another agent and returns its answer.
func (s *apiServer) fetch(r *http.Request, id wire.AgentID, address string) (status int, document json.RawMessage, err error) {
	if passedOn(r) {
		return 0, nil, &api.Error{Code: api.Unavailable, Text: "the captain has just changed; nothing was done: try again"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), forwardTime)
	defer cancel()
	out := r.Clone(ctx)
	out.RequestURI = ""
	out.Header = http.Header{hopHeader: {"1"}}
	answer, err := s.client(id, address).RoundTrip(out)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	if err := api.ReadAnswer(answer, &document); err != nil {
		return 0, nil, err
	}
	return answer.StatusCode, document, nil
}

// client returns the client to an agent.
func (s *apiServer) client(id wire.AgentID, address string) *api.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.clients[id]; ok {
		if c.address == address {
			return c.Client
		}
		c.Close()
	}
	c := api.NewClient(fmt.Sprintf("agent %d at %s", id, address), func(ctx context.Context) (net.Conn, error) {
		if id == s.id {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
		}
		return identity.Dial(ctx, address, s.creds(), identity.ProtocolAPI, id, s.policy)
	})
	s.clients[id] = peerClient{address, c}
	return c
}

// closeClients closes idle connections to others. No request may be under way.
func (s *apiServer) closeClients() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		c.Close()
	}
}
