package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"time"

	"flotilla/agent/api"
	"flotilla/agent/core"
	"flotilla/agent/vfs"
	"flotilla/wire"
	"flotilla/wire/identity"
)

const (
	dialTime     = 10 * time.Second // for connecting to the agent that a token names
	joinTime     = 30 * time.Second // for all of a join
	maxPeersFile = 4 << 20
)

// Join makes this host an agent of the cluster that a token names, and returns who it is there. The agent need not run,
// and must not.
func Join(ctx context.Context, c Config, text string, now time.Time) (identity.Peer, error) {
	token, err := identity.ParseToken(text)
	if err != nil {
		return identity.Peer{}, &api.Error{Code: api.Invalid, Text: err.Error()}
	}
	dir, err := openStateDir(c.StateDir)
	if err != nil {
		return identity.Peer{}, err
	}
	peer, err := join(ctx, c, token, dir, now)
	return peer, errors.Join(err, dir.release())
}

func join(ctx context.Context, c Config, token identity.Token, dir *stateDir, now time.Time) (identity.Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	if err := refuseSecond(dir, now); err != nil {
		return identity.Peer{}, err
	}
	key, err := identity.NewKey()
	if err != nil {
		return identity.Peer{}, err
	}
	request, err := identity.NewRequest(key, c.Name)
	if err != nil {
		return identity.Peer{}, err
	}
	ask := api.JoinRequest{Secret: token.Secret[:], Request: request, Name: c.Name, Address: c.Advertise, ComponentAddress: c.ComponentAdvertise, Domain: c.Domain}
	for _, r := range c.Roles {
		ask.Roles = append(ask.Roles, string(r))
	}
	client := api.NewClient("the agent at "+token.Address, func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTime)
		defer cancel()
		return identity.DialJoin(ctx, token, identity.Policy{})
	})
	defer client.Close()
	var answer api.JoinAnswer
	if err := client.Call(ctx, http.MethodPost, "/join", ask, &answer); err != nil {
		return identity.Peer{}, explainJoin(err, c.Name)
	}
	creds, err := newCredentials(key, answer.Certificate, answer.CA, token, now)
	if err != nil {
		return identity.Peer{}, fmt.Errorf("join: %w", err)
	}
	// Before the certificate: without it all of this is made anew.
	if err := startControl(dir, core.Boot{}, answer.Generation); err != nil {
		return identity.Peer{}, err
	}
	if err := savePeers(dir, answer.Peers); err != nil {
		return identity.Peer{}, err
	}
	return creds.Peer, creds.Save(dir.identity())
}

// explainJoin says what is to be done when it is not known whether the token was spent.
func explainJoin(err error, name string) error {
	if api.CodeOf(err) != api.Unknown {
		return err
	}
	return &api.Error{Code: api.Unknown, Text: fmt.Sprintf(
		"%v: if `flotilla component list` or `flotilla status` shows %q, remove it with `flotilla component remove %s`; then make another token",
		err, name, name)}
}

// savePeers keeps where the cluster was found, for the time until its own state has arrived.
func savePeers(dir *stateDir, peers []api.Peer) error {
	text, err := json.Marshal(peers)
	if err != nil {
		return fmt.Errorf("encode peers: %w", err)
	}
	return vfs.WriteFileAtomic(vfs.OS(), dir.peers(), text)
}

// loadPeers reads what savePeers wrote; the founder of a cluster has none.
func loadPeers(dir *stateDir) (map[wire.AgentID]string, error) {
	text, err := vfs.ReadFile(vfs.OS(), dir.peers(), maxPeersFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var peers []api.Peer
	if err := json.Unmarshal(text, &peers); err != nil {
		return nil, fmt.Errorf("read %s: %w", dir.peers(), err)
	}
	addresses := map[wire.AgentID]string{}
	for _, p := range peers {
		addresses[wire.AgentID(p.ID)] = p.Address
	}
	return addresses, nil
}
