package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
	"flotilla/wire/identity"
)

// A certificate is renewed in these steps, from when a third of its life is left:
//
//  1. The agent makes a signing request for its key and sends it to one agent after the other, those with the lowest
//     numbers first: the founder is among them. The connection is one of the API's, mutually authenticated.
//  2. Whoever has the CA's key issues a certificate for the agent that the connection's certificate names, if the
//     cluster has that agent still: postCertificate. Nobody passes such a request on: its sender would be another.
//  3. The agent checks the answer against the CA and its key, replaces its certificate's file, and shows the new one on
//     each connection made from then on. Old connections go on.
//
// An agent with the CA's key issues its certificate itself, also at its start after the old one has run out.
const (
	renewEvery      = time.Hour
	renewBackoff    = 64 // the first pause after a failure is this part of the usual one; it doubles up to that
	renewTellRounds = 24 // a lasting failure is an event once in so many usual pauses
)

// renewRemedy is for those who wait for an agent with the CA's key, caRemedy for those whose certificate ends with the CA.
const (
	renewRemedy = "start the agent that founded the cluster (it has identity/ca.key) and mend the network to it; docs/runbook.md says what to do without it"
	caRemedy    = "the cluster's CA ends with it: found a new cluster before that, and move the volumes"
)

// renewer keeps an agent's certificate valid. All but its parts belongs to the goroutine of run.
type renewer struct {
	api   *apiServer
	dir   string                  // of the identity
	seeds map[wire.AgentID]string // where the cluster was found, for the time before its state has arrived
	every time.Duration           // between two looks
	swap  func(*identity.Credentials)

	told time.Time // when the present failure was told last; zero when there is none
}

// keepRenewed starts the renewer. It ends before the server's clients are closed.
func (a *Agent) keepRenewed(s *apiServer) {
	r := &renewer{api: s, dir: a.dir.identity(), seeds: a.seeds, every: a.opt.RenewEvery, swap: a.creds.Store}
	ctx, cancel := context.WithCancel(a.ctx)
	ended := make(chan struct{})
	a.running.Go(func() {
		defer close(ended)
		r.run(ctx)
	})
	a.onClose(func() error {
		cancel()
		<-ended
		return nil
	})
}

func (r *renewer) run(ctx context.Context) {
	again := r.every / renewBackoff // the pause after the next failure
	for {
		pause := r.every
		switch remedy, err := r.check(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.tell(err, remedy)
			pause, again = again, min(2*again, r.every)
		default:
			r.told, again = time.Time{}, r.every/renewBackoff
		}
		r.lookAround(ctx)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// tell makes a failure an event, once in a while.
func (r *renewer) tell(err error, remedy string) {
	r.api.log.Debug("certificate was not renewed", "err", err)
	now := time.Now()
	if !r.told.IsZero() && now.Sub(r.told) < renewTellRounds*r.every {
		return
	}
	r.told = now
	r.event("certificate.renewal-failed", "expires", r.api.creds().Cert.NotAfter.Format(time.RFC3339), "error", err, "remedy", remedy)
}

func (r *renewer) event(name string, attrs ...any) {
	r.api.events.one(core.Event{At: r.api.loop.Now(), Name: name, Attrs: attrs})
}

// check renews the certificate when its time has come. With an error it says what is to be done.
func (r *renewer) check(ctx context.Context) (remedy string, err error) {
	own, now := r.api.creds(), r.api.policy.Now()
	if !identity.NeedsRenewal(own.Cert, now) {
		return "", nil
	}
	request, err := own.Request()
	if errors.Is(err, identity.ErrNotLater) {
		return caRemedy, err
	}
	if err != nil {
		return renewRemedy, err
	}
	fresh, err := r.obtain(ctx, own, request)
	if err != nil {
		return renewRemedy, err
	}
	if err := fresh.SaveCertificate(r.dir); err != nil {
		return "mend the disk of the state directory, or make room on it", err
	}
	r.swap(fresh)
	r.event("certificate.renewed", "expires", fresh.Cert.NotAfter.Format(time.RFC3339), "serial", fresh.Serial)
	return "", nil
}

// obtain has a request answered, by this agent itself where it has the CA's key.
func (r *renewer) obtain(ctx context.Context, own *identity.Credentials, request []byte) (*identity.Credentials, error) {
	s := r.api
	if s.ca != nil {
		return issueOwn(s.ca, own, request, s.policy.Now())
	}
	var failures []string
	without := 0
	for _, p := range r.others() {
		fresh, err := r.ask(ctx, p, own, request)
		switch {
		case err == nil:
			return fresh, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case api.CodeOf(err) == api.NotFound:
			without++
		default:
			failures = append(failures, err.Error())
		}
	}
	if without > 0 {
		failures = append(failures, fmt.Sprintf("%d agents have no CA key", without))
	}
	if len(failures) == 0 {
		failures = append(failures, "no other agent is known")
	}
	return nil, fmt.Errorf("renew the certificate of agent %d: %s", own.Agent, strings.Join(failures, "; "))
}

// others returns where the other agents are, ascending.
func (r *renewer) others() []api.Peer {
	peers := r.api.otherAgents()
	if len(peers) > 0 {
		return peers
	}
	for _, id := range cluster.SortedKeys(r.seeds) {
		if id != r.api.id {
			peers = append(peers, api.Peer{ID: uint64(id), Address: r.seeds[id]})
		}
	}
	return peers
}

func (r *renewer) ask(ctx context.Context, p api.Peer, own *identity.Credentials, request []byte) (*identity.Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	var answer api.Certificate
	err := r.api.client(wire.AgentID(p.ID), p.Address).Call(ctx, http.MethodPost, "/v1/certificates", api.CertificateRequest{Request: request}, &answer)
	if err != nil {
		return nil, err
	}
	return own.Renew(answer.Certificate, r.api.policy.Now())
}

// issueOwn renews with the CA's key at hand.
func issueOwn(ca *identity.CA, own *identity.Credentials, request []byte, now time.Time) (*identity.Credentials, error) {
	cert, err := ca.Issue(request, own.Agent, own.Name, now)
	if err != nil {
		return nil, err
	}
	return own.Renew(cert, now)
}

// renewExpired renews at an agent's start a certificate that has run out, which only the CA's key can do.
func renewExpired(own *identity.Credentials, ca *identity.CA, dir *stateDir, now time.Time) (*identity.Credentials, error) {
	if ca == nil {
		return nil, fmt.Errorf("the certificate in %s ran out on %v, and it is %v: set the clock if it is wrong; otherwise put the founder's identity/ca.key there, start the agent, which then renews it, and delete the key",
			dir.identity(), own.Cert.NotAfter, now)
	}
	request, err := own.Request()
	if err != nil {
		return nil, err
	}
	fresh, err := issueOwn(ca, own, request, now)
	if err != nil {
		return nil, err
	}
	return fresh, fresh.SaveCertificate(dir.identity())
}

// postCertificate renews the certificate of the agent at the other end of the connection, and of no other. A founder whose
// state is behind may still issue one to an agent that was just removed: that is of no use to it, because removals
// refuse the agent and not the certificate.
func (s *apiServer) postCertificate(w http.ResponseWriter, r *http.Request) error {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return &api.Error{Code: api.Refused, Text: "renew: an agent asks for its certificate itself, on a connection that shows the one it has"}
	}
	if s.ca == nil {
		return &api.Error{Code: api.NotFound, Text: "renew: this agent has no CA key"}
	}
	var q api.CertificateRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	peer, err := identity.PeerOf(r.TLS.PeerCertificates[0])
	if err != nil {
		return &api.Error{Code: api.Refused, Text: err.Error()}
	}
	var name string
	s.loop.View(func(n *core.Node) {
		if a := n.State().Agents[peer.Agent]; a != nil {
			name = a.Name
		}
	})
	if name == "" {
		return &api.Error{Code: api.Refused, Text: fmt.Sprintf("renew: the cluster has no agent %d (%s)", peer.Agent, peer.Name)}
	}
	cert, err := s.ca.Issue(q.Request, peer.Agent, name, s.policy.Now())
	if err != nil {
		return &api.Error{Code: api.Refused, Text: "renew: " + err.Error()}
	}
	s.log.Info("certificate issued", "agent", peer.Agent, "remote", r.RemoteAddr)
	writeJSON(w, http.StatusOK, api.Certificate{Certificate: cert})
	return nil
}
