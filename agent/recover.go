package agent

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"flotilla/agent/control"
	"flotilla/agent/core"
	"flotilla/agent/core/cluster"
	"flotilla/wire"
	"flotilla/wire/identity"
)

// A recover is done on the state directory of an agent that does not run, and not through its socket: no vote, entry or
// write can come between the look at the log and the new generation, and the directory's lock says so. What it changes is
// one transaction.

const (
	positionPrefix = "flotilla-position-v1."
	maxPosition    = 256 << 10 // characters
)

// RecoverOptions say what a recover is to do.
type RecoverOptions struct {
	Survivors  []string // names of all agents that are left, this one among them
	Positions  []string // what the recover of each other survivor has printed
	Generation uint64   // to promise; 0 for the next one
	Plan       bool     // change nothing
	Undo       bool     // take back a promise of a generation that has not begun
}

// Recovery is what a recover came to.
type Recovery struct {
	Agent      string   `json:"agent"`
	Generation uint64   `json:"generation"`
	Done       bool     `json:"done"`     // it has begun here; otherwise it is only promised, unless Plan was asked for
	Position   string   `json:"position"` // of this agent, for the survivor that begins it
	Missing    []string `json:"missing"`  // survivors whose position was not given
	Behind     []string `json:"behind"`   // agents that are not in it
	Lost       []string `json:"lost"`     // components among them
	Components []string `json:"components"`
	View       uint64   `json:"view"`
}

// position is the content of a position's text.
type position struct {
	Cluster    string
	Name       string
	Generation uint64 // promised
	Position   core.Position
}

// Recover makes the agent whose state directory this is promise the next generation of its cluster or, when the positions
// of all other survivors are given and none is newer, begin it. The agent must not run.
func Recover(c Config, o RecoverOptions, now time.Time) (*Recovery, error) {
	if _, err := os.Stat(c.StateDir); err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	dir, err := openStateDir(c.StateDir)
	if err != nil {
		return nil, err
	}
	r, err := recoverIn(c, dir, o, now)
	return r, errors.Join(err, dir.release())
}

func recoverIn(c Config, dir *stateDir, o RecoverOptions, now time.Time) (*Recovery, error) {
	creds, err := identity.LoadExpired(dir.identity(), now)
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	if _, err := os.Stat(dir.control()); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("recover: %s has no control log", dir.path)
	}
	log, err := control.Open(dir.control())
	if err != nil {
		return nil, err
	}
	s := survivor{cfg: c, creds: creds, log: log}
	err = s.read()
	var r *Recovery
	if err == nil && o.Undo {
		r, err = s.undo()
	} else if err == nil {
		r, err = s.recover(o)
	}
	return r, errors.Join(err, log.Close())
}

// survivor is a recover under way.
type survivor struct {
	cfg   Config
	creds *identity.Credentials
	log   *control.Store
	boot  core.Boot
	made  control.Generations
	state *cluster.State // at the end of the log
}

func (s *survivor) read() (err error) {
	if s.made, err = s.log.Generations(); err != nil {
		return err
	}
	if s.made.Behind > 0 {
		return leftBehind(s.made.Behind)
	}
	if s.boot, err = s.log.Boot(); err != nil {
		return err
	}
	s.state, err = core.Replay(s.boot)
	return err
}

func (s *survivor) undo() (*Recovery, error) {
	if s.made.Promised <= s.state.Generation {
		return nil, fmt.Errorf("recover: there is nothing to undo: no generation is promised that has not begun")
	}
	if err := s.log.Promise(s.state.Generation); err != nil {
		return nil, err
	}
	return &Recovery{Agent: s.creds.Name, Generation: s.state.Generation}, nil
}

func (s *survivor) recover(o RecoverOptions) (*Recovery, error) {
	ids, err := s.ids(o.Survivors)
	if err != nil {
		return nil, err
	}
	enough, err := core.Majority(s.cfg.core(s.creds.Agent, 1, 0), s.boot, ids)
	if err != nil {
		return nil, err
	}
	if enough {
		return nil, fmt.Errorf("recover: %s are a majority of the voters: start them, and let them reach each other: nothing needs to be given up", strings.Join(o.Survivors, ", "))
	}
	own := core.PositionOf(s.creds.Agent, s.boot)
	others, generation, missing, err := s.others(o, ids)
	if err != nil {
		return nil, err
	}
	r := &Recovery{Agent: s.creds.Name, Generation: generation, Missing: missing, Behind: []string{}, Lost: []string{}, Components: []string{}}
	for _, id := range cluster.SortedKeys(s.state.Agents) {
		a := s.state.Agents[id]
		switch gone := !slices.Contains(ids, id); {
		case gone && s.state.IsMember(id):
			r.Behind, r.Lost = append(r.Behind, a.Name), append(r.Lost, a.Name)
		case gone:
			r.Behind = append(r.Behind, a.Name)
		case s.state.IsMember(id):
			r.Components = append(r.Components, a.Name)
		}
	}
	if r.Position, err = encodePosition(position{s.state.Cluster, s.creds.Name, generation, own}); err != nil {
		return nil, err
	}
	if !o.Plan && generation > s.made.Promised {
		if err := s.log.Promise(generation); err != nil {
			return nil, err
		}
	}
	if len(missing) > 0 {
		return r, nil
	}
	positions := append(others, own)
	newest, err := core.Newest(positions)
	if err != nil {
		return nil, err
	}
	if newest != s.creds.Agent {
		name := s.state.Agents[newest].Name
		return nil, fmt.Errorf("recover: %s has a newer control log than %s: run it there, with the positions of the others; that of this agent is %s", name, s.creds.Name, r.Position)
	}
	boot, err := core.Recover(s.boot, s.creds.Agent, generation, positions)
	if err != nil {
		return nil, err
	}
	st, err := core.Replay(boot)
	if err != nil {
		return nil, err
	}
	r.View = uint64(st.View)
	if o.Plan {
		return r, nil
	}
	if err := s.log.Recover(generation, boot); err != nil {
		return nil, err
	}
	r.Done = true
	return r, nil
}

// ids finds the survivors.
func (s *survivor) ids(names []string) ([]wire.AgentID, error) {
	var ids []wire.AgentID
	for _, name := range names {
		a := s.state.AgentByName(name)
		switch {
		case a == nil || a.Behind:
			return nil, fmt.Errorf("recover: there is no agent named %q in this cluster: the agents are %s", name, strings.Join(s.names(), ", "))
		case slices.Contains(ids, a.ID):
			return nil, fmt.Errorf("recover: survivor %q is named twice", name)
		}
		ids = append(ids, a.ID)
	}
	if !slices.Contains(ids, s.creds.Agent) {
		return nil, fmt.Errorf("recover: %s, on which this runs, is not among the survivors", s.creds.Name)
	}
	return ids, nil
}

func (s *survivor) names() []string {
	var names []string
	for _, id := range cluster.SortedKeys(s.state.Agents) {
		if a := s.state.Agents[id]; !a.Behind {
			names = append(names, a.Name)
		}
	}
	return names
}

// others reads the positions, and returns the generation that all have promised, or are to promise, and the survivors that
// have said nothing yet.
func (s *survivor) others(o RecoverOptions, ids []wire.AgentID) (others []core.Position, generation uint64, missing []string, err error) {
	generation = max(s.state.Generation+1, s.made.Promised, o.Generation)
	promised := map[wire.AgentID]position{}
	for _, text := range o.Positions {
		p, err := decodePosition(text)
		if err != nil {
			return nil, 0, nil, err
		}
		id := p.Position.Agent
		_, again := promised[id]
		switch {
		case p.Cluster != s.state.Cluster:
			return nil, 0, nil, fmt.Errorf("recover: the position of %s is of cluster %s, and this is cluster %s", p.Name, p.Cluster, s.state.Cluster)
		case !slices.Contains(ids, id):
			return nil, 0, nil, fmt.Errorf("recover: the position of %s is given, and it is not among the survivors", p.Name)
		case id == s.creds.Agent || again:
			return nil, 0, nil, fmt.Errorf("recover: the position of %s is given twice, or is this agent's own", p.Name)
		}
		promised[id] = p
		generation = max(generation, p.Generation)
		others = append(others, p.Position)
	}
	for _, id := range ids {
		p, ok := promised[id]
		switch {
		case id == s.creds.Agent:
		case !ok:
			missing = append(missing, s.state.Agents[id].Name)
		case p.Generation != generation:
			return nil, 0, nil, fmt.Errorf("recover: %s has promised generation %d, and this is to be %d: run there again with --generation %d, and give its new position",
				p.Name, p.Generation, generation, generation)
		}
	}
	return others, generation, missing, nil
}

func encodePosition(p position) (string, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("encode position: %w", err)
	}
	text = binary.BigEndian.AppendUint32(text, crc32.ChecksumIEEE(text))
	return positionPrefix + base64.RawURLEncoding.EncodeToString(text), nil
}

func decodePosition(text string) (p position, err error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), positionPrefix)
	if !ok || len(encoded) > maxPosition {
		return p, fmt.Errorf("read position: it does not begin with %q, or is too long: copy all of what `flotilla cluster recover` has printed on the other survivor", positionPrefix)
	}
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || len(raw) < 4 || crc32.ChecksumIEEE(raw[:len(raw)-4]) != binary.BigEndian.Uint32(raw[len(raw)-4:]) {
		return p, fmt.Errorf("read position: it is not whole: copy all of what `flotilla cluster recover` has printed on the other survivor")
	}
	if err := json.Unmarshal(raw[:len(raw)-4], &p); err != nil {
		return p, fmt.Errorf("read position: %w", err)
	}
	return p, nil
}
