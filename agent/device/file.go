package device

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// fileVersion is the version of the file of attached devices.
const fileVersion = 1

// document is the content of the file, JSON:
//
//	{"version": 1, "devices": [{"volume": "db/data", "index": -1, "timeout_seconds": 60, "dead_timeout_seconds": 300}]}
type document struct {
	Version int     `json:"version"`
	Devices []entry `json:"devices"`
}

type entry struct {
	Volume             string `json:"volume"`
	Index              int    `json:"index"`
	TimeoutSeconds     int64  `json:"timeout_seconds"`
	DeadTimeoutSeconds int64  `json:"dead_timeout_seconds"`
}

// readSpecs reads what is attached; nothing is when there is no file.
func readSpecs(path string) ([]Spec, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read attached devices: %w", err)
	}
	var d document
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("read attached devices: %s: %w: repair it, or remove it and attach again", path, err)
	}
	if d.Version != fileVersion {
		return nil, fmt.Errorf("read attached devices: %s has version %d, this program knows %d: use a newer one", path, d.Version, fileVersion)
	}
	var out []Spec
	for _, e := range d.Devices {
		s := Spec{Volume: e.Volume, Index: e.Index, Timeout: time.Duration(e.TimeoutSeconds) * time.Second, DeadTimeout: time.Duration(e.DeadTimeoutSeconds) * time.Second}
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("read attached devices: %s: %w", path, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// writeSpecs replaces the file durably.
func writeSpecs(path string, specs []Spec) (err error) {
	d := document{Version: fileVersion, Devices: []entry{}}
	for _, s := range specs {
		d.Devices = append(d.Devices, entry{s.Volume, s.Index, int64(s.Timeout / time.Second), int64(s.DeadTimeout / time.Second)})
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write attached devices: %w", err)
		}
	}()
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// makeLink makes path a symbolic link to target, at once for whoever looks.
func makeLink(path, target string) error {
	if to, err := os.Readlink(path); err == nil && to == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	return os.Rename(next, path)
}
