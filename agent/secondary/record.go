package secondary

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"flotilla/agent/vfs"
	"flotilla/wire"
)

// Condition is what stands on a target; see the package comment.
type Condition string

// The conditions.
const (
	Claimed    Condition = "claimed"
	Copying    Condition = "copying"
	Applying   Condition = "applying"
	Consistent Condition = "consistent"
	Torn       Condition = "torn"
	Promoted   Condition = "promoted"
)

func (c Condition) known() bool {
	switch c {
	case Claimed, Copying, Applying, Consistent, Torn, Promoted:
		return true
	}
	return false
}

const (
	recordVersion = 1
	recordSuffix  = ".target"
	maxRecord     = 64 << 10 // bytes
)

// record is the content of one volume's file, one JSON object.
type record struct {
	Version    int           `json:"version"`
	Cluster    string        `json:"cluster"`
	Group      wire.GroupID  `json:"group"`
	GroupName  string        `json:"group_name"`
	Volume     wire.VolumeID `json:"volume"`
	VolumeName string        `json:"volume_name"`
	Path       string        `json:"path"`
	Size       int64         `json:"size"` // of the volume, in bytes
	Condition  Condition     `json:"condition"`
	Applied    wire.Set      `json:"applied"`
	Run        wire.Set      `json:"run"` // while applying: the last set that may be written in part
}

// records are the files of all targets that this agent ever claimed and did not give back. The follower owns them;
// a target's own record is written by whoever holds the target's turn.
type records struct {
	fs  vfs.FS
	dir string
}

func (s records) name(v wire.VolumeID) string {
	return path.Join(s.dir, fmt.Sprintf("volume-%d%s", v, recordSuffix))
}

// write makes a record durable.
func (s records) write(r record) error {
	r.Version = recordVersion
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("encode the record of target %s: %w", r.Path, err)
	}
	return vfs.WriteFileAtomic(s.fs, s.name(r.Volume), append(data, '\n'))
}

// remove gives a target back.
func (s records) remove(v wire.VolumeID) error {
	if err := s.fs.Remove(s.name(v)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of volume %d: %w", v, err)
	}
	return s.fs.SyncDir(s.dir)
}

// load returns all records. One that can not be read is an error: nobody knows whose target it protects.
func (s records) load() (map[wire.VolumeID]record, error) {
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return nil, fmt.Errorf("open the records of targets: %w", err)
	}
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, fmt.Errorf("open the records of targets: %w", err)
	}
	all := map[wire.VolumeID]record{}
	for _, name := range names {
		if !strings.HasSuffix(name, recordSuffix) {
			continue
		}
		r, err := s.read(path.Join(s.dir, name))
		if err != nil {
			return nil, err
		}
		if s.name(r.Volume) != path.Join(s.dir, name) {
			return nil, fmt.Errorf("read %s: it is the record of volume %d: remove it if that volume's target is not here", name, r.Volume)
		}
		all[r.Volume] = r
	}
	return all, nil
}

func (s records) read(name string) (record, error) {
	data, err := vfs.ReadFile(s.fs, name, maxRecord)
	if err != nil {
		return record{}, fmt.Errorf("read the record of a target: %w", err)
	}
	var probe struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &probe); err != nil {
		return record{}, fmt.Errorf("read %s: it is damaged (%w): remove it if you know whose the target is", name, err)
	}
	if probe.Version != recordVersion {
		return record{}, fmt.Errorf("read %s: version %d is not %d, the one this agent reads: use the release that wrote it", name, probe.Version, recordVersion)
	}
	var r record
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return record{}, fmt.Errorf("read %s: it is damaged (%w): remove it if you know whose the target is", name, err)
	}
	if !r.Condition.known() {
		return record{}, fmt.Errorf("read %s: condition %q is unknown: remove it if you know what is on the target", name, r.Condition)
	}
	return r, nil
}
