package backup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"flotilla/agent/vfs"
	"flotilla/wire"
)

// identityVersion is the version of the identity file that is written, and the only one that is read.
const identityVersion = 1

const (
	identityName = "identity"
	segmentsName = "segments"
	// maxIdentity bounds the file, in bytes.
	maxIdentity = 4096
)

// identity says whose journal the segments are. It is one JSON object, for people to read as well.
type identity struct {
	Version int          `json:"version"`
	Cluster string       `json:"cluster"`
	Agent   wire.AgentID `json:"agent"`
	Life    uint64       `json:"life"` // 0: of no life yet, and empty
	// Lost says that something of this life is missing, or may be.
	Lost bool `json:"lost"`
}

// errNoIdentity says that there is no identity, or none that can be read.
var errNoIdentity = errors.New("the journal has no identity")

// readIdentity fails with errNoIdentity, or with an error that a person has to look at.
func readIdentity(fsys vfs.FS, dir string) (identity, error) {
	name := path.Join(dir, identityName)
	data, err := vfs.ReadFile(fsys, name, maxIdentity)
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}, errNoIdentity
	}
	if err != nil {
		return identity{}, fmt.Errorf("read the journal's identity: %w", err)
	}
	var probe struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(data, &probe) == nil && probe.Version > identityVersion {
		return identity{}, fmt.Errorf("read %s: version %d is newer than this agent's %d: upgrade it", name, probe.Version, identityVersion)
	}
	var id identity
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&id); err != nil || id.Version != identityVersion {
		return identity{}, fmt.Errorf("%w: %s is damaged", errNoIdentity, name)
	}
	return id, nil
}

// writeIdentity makes the identity durable.
func writeIdentity(fsys vfs.FS, dir string, id identity) error {
	id.Version = identityVersion
	data, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("encode the journal's identity: %w", err)
	}
	return vfs.WriteFileAtomic(fsys, path.Join(dir, identityName), append(data, '\n'))
}
