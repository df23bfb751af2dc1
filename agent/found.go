package agent

import (
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"flotilla/agent/control"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
	"flotilla/wire/identity"
)

// ErrHasIdentity is returned when a host that is an agent already is to become another.
var ErrHasIdentity = errors.New("this state directory belongs to an agent already")

// ErrNoIdentity is returned when an agent starts that belongs to no cluster.
var ErrNoIdentity = errors.New("this agent belongs to no cluster yet")

// Found makes a cluster whose first agent is this one: the CA, the agent's certificate and a control log in which it
// is the only agent and votes alone. The certificate comes last: what a crash leaves without it is made anew.
func Found(c Config, now time.Time) (wire.ClusterID, error) {
	dir, err := openStateDir(c.StateDir)
	if err != nil {
		return wire.ClusterID{}, err
	}
	id, err := found(c, dir, now)
	return id, errors.Join(err, dir.release())
}

func found(c Config, dir *stateDir, now time.Time) (wire.ClusterID, error) {
	if err := refuseSecond(dir, now); err != nil {
		return wire.ClusterID{}, err
	}
	id, err := wire.NewClusterID(rand.Reader)
	if err != nil {
		return id, err
	}
	ca, err := identity.NewCA(id, now)
	if err != nil {
		return id, err
	}
	st := cluster.New(id.String())
	add := &cluster.AddAgent{
		Name: c.Name, Address: c.Advertise, ComponentAddress: c.ComponentAdvertise, Label: now.UnixNano(),
		Primary: c.Has(Primary), Backup: c.Has(Backup), Secondary: c.Has(Secondary), Domain: c.Domain,
	}
	number, err := st.Apply(1, &cluster.Command{AddAgent: add})
	if err != nil {
		return id, err
	}
	first := wire.AgentID(number)
	key, err := identity.NewKey()
	if err != nil {
		return id, err
	}
	request, err := identity.NewRequest(key, c.Name)
	if err != nil {
		return id, err
	}
	cert, err := ca.Issue(request, first, c.Name, now)
	if err != nil {
		return id, err
	}
	creds, err := identity.NewCredentials(key, cert, ca.Certificate().Raw, now)
	if err != nil {
		return id, err
	}
	if err := startControl(dir, core.Bootstrap(st, []wire.AgentID{first}), 0); err != nil {
		return id, err
	}
	if err := ca.Save(dir.identity()); err != nil {
		return id, err
	}
	return id, creds.Save(dir.identity())
}

// refuseSecond returns ErrHasIdentity when the directory has a certificate.
func refuseSecond(dir *stateDir, now time.Time) error {
	have, err := identity.LoadCredentials(dir.identity(), now)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%w: %s, and it cannot be read: %w", ErrHasIdentity, dir.path, err)
	}
	return fmt.Errorf("%w: %s holds agent %d (%s) of cluster %v: give this agent another state_dir, or remove that one if the agent is gone for good",
		ErrHasIdentity, dir.path, have.Agent, have.Name, have.Cluster)
}

// startControl makes the control log of an agent that has none, with what a new cluster starts from, or for a joiner of a
// generation of one.
func startControl(dir *stateDir, boot core.Boot, generation uint64) error {
	if err := os.Remove(dir.control()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what is left of an earlier attempt: %w", err)
	}
	log, err := control.Open(dir.control())
	if err != nil {
		return err
	}
	if boot.Snapshot != nil {
		err = log.Initialize(boot)
	}
	if generation > 0 {
		err = errors.Join(err, log.Promise(generation))
	}
	return errors.Join(err, log.Close())
}

// loadIdentity reads who this agent is, and the CA's key where it has it.
func loadIdentity(c Config, dir *stateDir, now time.Time) (*identity.Credentials, *identity.CA, error) {
	creds, err := identity.LoadExpired(dir.identity(), now)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: found one with `flotilla cluster init`, or join one with `flotilla cluster join TOKEN`", ErrNoIdentity)
	}
	if err != nil {
		return nil, nil, err
	}
	if creds.Name != c.Name {
		return nil, nil, fmt.Errorf("%w: name: %q: %s was joined as %q: write that name", ErrConfig, c.Name, c.StateDir, creds.Name)
	}
	ca, err := identity.LoadCA(dir.identity())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if now.After(creds.Cert.NotAfter) {
		creds, err = renewExpired(creds, ca, dir, now)
		return creds, ca, err
	}
	return creds, ca, nil
}

// newCredentials puts together a joiner's key and what it was answered, which must be for the cluster it asked.
func newCredentials(key *ecdsa.PrivateKey, cert, ca []byte, token identity.Token, now time.Time) (*identity.Credentials, error) {
	creds, err := identity.NewCredentials(key, cert, ca, now)
	if err != nil {
		return nil, err
	}
	if creds.Cluster != token.Cluster || identity.Fingerprint(creds.Root) != token.CAFingerprint {
		return nil, fmt.Errorf("the answer is of another cluster than the token's: %w", identity.ErrPin)
	}
	return creds, nil
}
