package control_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"flotilla/agent/control"
	"flotilla/agent/core"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"
)

func hard(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: new(term), Vote: new(vote), Commit: new(commit)}
}

func entries(term, first, last uint64) []*raftpb.Entry {
	var es []*raftpb.Entry
	for i := first; i <= last; i++ {
		es = append(es, &raftpb.Entry{
			Term: new(term), Index: new(i), Type: raftpb.EntryType_EntryNormal.Enum(), Data: fmt.Appendf(nil, "entry %d of term %d", i, term),
		})
	}
	return es
}

func snapshot(index uint64) *raftpb.Snapshot {
	return &raftpb.Snapshot{Data: fmt.Appendf(nil, "state at %d", index), Metadata: &raftpb.SnapshotMetadata{
		Index: new(index), Term: new(uint64(1)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}},
	}}
}

func open(t testing.TB, path string) *control.Store {
	t.Helper()
	s, err := control.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// holds checks what the store holds, before and after a restart, and returns the restarted store.
func holds(t testing.TB, s *control.Store, path string, want core.Boot) *control.Store {
	t.Helper()
	for _, when := range []string{"open", "reopened"} {
		have, err := s.Boot()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, have, protocmp.Transform()); diff != "" {
			t.Fatalf("%s store (-want +have):\n%s", when, diff)
		}
		if when == "open" {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, path)
		}
	}
	return s
}

// Every kind of Ready, with a restart behind each.
func TestSave(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.db")
	s := open(t, path)
	var want core.Boot
	s = holds(t, s, path, want)
	for _, step := range []struct {
		name string
		rd   core.Ready
		then func()
	}{
		{"vote", core.Ready{HardState: hard(1, 2, 0)}, func() { want.HardState = hard(1, 2, 0) }},
		{"messages only", core.Ready{Messages: []*raftpb.Message{{}}}, func() {}},
		{"entries", core.Ready{Entries: entries(1, 1, 5)}, func() { want.Entries = entries(1, 1, 5) }},
		{"commit", core.Ready{HardState: hard(1, 2, 3)}, func() { want.HardState = hard(1, 2, 3) }},
		{"more entries", core.Ready{HardState: hard(2, 0, 3), Entries: entries(2, 6, 7)}, func() {
			want.HardState, want.Entries = hard(2, 0, 3), append(entries(1, 1, 5), entries(2, 6, 7)...)
		}},
		{"entries that replace", core.Ready{Entries: entries(3, 4, 4)}, func() {
			want.Entries = append(entries(1, 1, 3), entries(3, 4, 4)...)
		}},
		{"own snapshot with entries", core.Ready{Snapshot: snapshot(3), Compact: 3, Entries: entries(3, 5, 9), HardState: hard(3, 0, 8)}, func() {
			want = core.Boot{HardState: hard(3, 0, 8), Snapshot: snapshot(3), Entries: entries(3, 4, 9)}
		}},
		{"own snapshot that keeps some", core.Ready{Snapshot: snapshot(8), Compact: 6}, func() {
			want.Snapshot, want.Entries = snapshot(8), entries(3, 9, 9)
		}},
		{"own snapshot of all", core.Ready{Snapshot: snapshot(9), Compact: 9, HardState: hard(3, 0, 9)}, func() {
			want = core.Boot{HardState: hard(3, 0, 9), Snapshot: snapshot(9)}
		}},
		{"entries behind it", core.Ready{Entries: entries(3, 10, 30)}, func() { want.Entries = entries(3, 10, 30) }},
		{"the captain's snapshot inside the log", core.Ready{Snapshot: snapshot(20), HardState: hard(4, 0, 20)}, func() {
			want = core.Boot{HardState: hard(4, 0, 20), Snapshot: snapshot(20)}
		}},
		{"the captain's snapshot above it, with entries", core.Ready{Snapshot: snapshot(100), HardState: hard(4, 0, 100), Entries: entries(4, 101, 102)}, func() {
			want = core.Boot{HardState: hard(4, 0, 100), Snapshot: snapshot(100), Entries: entries(4, 101, 102)}
		}},
	} {
		if err := s.Save(step.rd); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		step.then()
		t.Log(step.name)
		s = holds(t, s, path, want)
	}
}

// What contradicts the log is refused, and leaves it as it was.
func TestSaveRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.db")
	s := open(t, path)
	want := core.Boot{HardState: hard(5, 2, 12), Snapshot: snapshot(10), Entries: entries(5, 11, 14)}
	if err := s.Initialize(want); err != nil {
		t.Fatal(err)
	}
	for name, rd := range map[string]core.Ready{
		"lower term":                   {HardState: hard(4, 0, 12)},
		"second vote":                  {HardState: hard(5, 3, 12)},
		"vote withdrawn":               {HardState: hard(5, 0, 12)},
		"lower commit":                 {HardState: hard(5, 2, 11)},
		"commit above the log":         {HardState: hard(5, 2, 15)},
		"gap":                          {Entries: entries(5, 16, 17)},
		"gap inside":                   {Entries: append(entries(5, 15, 15), entries(5, 17, 17)...)},
		"entry below the snapshot":     {Entries: entries(5, 10, 17)},
		"committed entries cut off":    {Snapshot: snapshot(11), HardState: hard(5, 2, 12)},
		"older snapshot":               {Snapshot: snapshot(9)},
		"own snapshot above the log":   {Snapshot: snapshot(15), Compact: 15},
		"own snapshot above committed": {Snapshot: snapshot(13), Compact: 13},
	} {
		if err := s.Save(rd); !errors.Is(err, control.ErrOrder) {
			t.Errorf("%s: %v", name, err)
		}
	}
	holds(t, s, path, want)
}

func TestInitialize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.db")
	s := open(t, path)
	if err := s.Initialize(core.Boot{Snapshot: snapshot(1)}); !errors.Is(err, control.ErrOrder) {
		t.Errorf("a snapshot that is not committed: %v", err)
	}
	want := core.Boot{HardState: hard(1, 0, 1), Snapshot: snapshot(1)}
	if err := s.Initialize(want); err != nil {
		t.Fatal(err)
	}
	s = holds(t, s, path, want)
	if err := s.Initialize(want); !errors.Is(err, control.ErrNotEmpty) {
		t.Errorf("a second time: %v", err)
	}
	holds(t, s, path, want)

	voted := open(t, filepath.Join(t.TempDir(), "voted.db"))
	if err := voted.Save(core.Ready{HardState: hard(1, 1, 0)}); err != nil {
		t.Fatal(err)
	}
	if err := voted.Initialize(want); !errors.Is(err, control.ErrNotEmpty) {
		t.Errorf("after a vote: %v", err)
	}
}

func TestClosed(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "control.db"))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Boot()
	for _, err := range []error{err, s.Save(core.Ready{}), s.Initialize(core.Boot{})} {
		if !errors.Is(err, control.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.db")
	first := open(t, path)
	if _, err := control.Open(path); !errors.Is(err, control.ErrLocked) {
		t.Fatalf("while it is open: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

// Open removes what a crash has left of an unfinished file, and that only.
func TestOpenCleansUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a[b]*")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "control.db")
	for _, name := range []string{"control.db.new123", "control.database", "journal.new1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open(t, path)
	var names []string
	list, err := os.ReadDir(dir)
	for _, e := range list {
		names = append(names, e.Name())
	}
	if want := []string{"control.database", "control.db", "journal.new1"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("directory holds %q, %v, want %q", names, err, want)
	}
}

// edit changes the file behind the store's back.
func edit(t *testing.T, path string, change func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(change), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	key := func(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }
	flip := func(bucket string, key []byte) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(bucket))
			raw := slices.Clone(b.Get(key))
			raw[len(raw)-1] ^= 1
			return b.Put(key, raw)
		}
	}
	version := func(v uint32) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("format")).Put([]byte("version"), binary.BigEndian.AppendUint32(nil, v))
		}
	}
	for name, c := range map[string]struct {
		change func(tx *bolt.Tx) error
		want   error
	}{
		"newer version":     {version(2), control.ErrVersion},
		"version zero":      {version(0), control.ErrVersion},
		"no format":         {func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("format")) }, control.ErrCorrupt},
		"no entries bucket": {func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("entries")) }, control.ErrCorrupt},
		"rotten hard state": {flip("state", []byte("hard")), control.ErrCorrupt},
		"rotten snapshot":   {flip("state", []byte("snapshot")), control.ErrCorrupt},
		"rotten entry":      {flip("entries", key(3)), control.ErrCorrupt},
		"missing entry":     {func(tx *bolt.Tx) error { return tx.Bucket([]byte("entries")).Delete(key(3)) }, control.ErrCorrupt},
		"missing committed entry": {func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("entries"))
			return errors.Join(b.Delete(key(4)), b.Delete(key(5)), b.Delete(key(6)))
		}, control.ErrCorrupt},
		"missing hard state": {func(tx *bolt.Tx) error { return tx.Bucket([]byte("state")).Delete([]byte("hard")) }, control.ErrCorrupt},
		"short record":       {func(tx *bolt.Tx) error { return tx.Bucket([]byte("entries")).Put(key(4), []byte{1}) }, control.ErrCorrupt},
		"entry in another's place": {func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("entries"))
			return b.Put(key(4), slices.Clone(b.Get(key(3))))
		}, control.ErrCorrupt},
	} {
		path := filepath.Join(t.TempDir(), "control.db")
		s := open(t, path)
		if err := s.Initialize(core.Boot{HardState: hard(1, 0, 4), Snapshot: snapshot(2), Entries: entries(1, 3, 6)}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		edit(t, path, c.change)
		if _, err := control.Open(path); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		// The failed Open let go of the file.
		edit(t, path, func(*bolt.Tx) error { return nil })
	}
	text := filepath.Join(t.TempDir(), "control.db")
	if err := os.WriteFile(text, make([]byte, 32<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Open(text); !errors.Is(err, control.ErrCorrupt) {
		t.Errorf("a file of zeroes: %v", err)
	}
	if _, err := control.Open(filepath.Join(t.TempDir(), "missing", "control.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a missing directory: %v", err)
	}
}

// Any history of Readys leaves what a plain model of a log holds.
func TestSaveModel(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		path := filepath.Join(dir, fmt.Sprintf("control-%d.db", run))
		s, err := control.Open(path)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { s.Close() }()
		want := core.Boot{HardState: hard(1, 0, 1), Snapshot: snapshot(1)}
		if err := s.Initialize(want); err != nil {
			rt.Fatal(err)
		}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			snap, commit := want.Snapshot.GetMetadata().GetIndex(), want.HardState.GetCommit()
			last, term := snap+uint64(len(want.Entries)), want.HardState.GetTerm()+1
			rd := core.Ready{}
			switch rapid.IntRange(0, 2).Draw(rt, "kind") {
			case 1:
				at := rapid.Uint64Range(snap, commit).Draw(rt, "own snapshot")
				rd.Snapshot, rd.Compact = snapshot(at), max(1, at/2)
				want.Snapshot, want.Entries = rd.Snapshot, want.Entries[at-snap:]
			case 2:
				at := rapid.Uint64Range(commit, last+5).Draw(rt, "captain's snapshot")
				rd.Snapshot = snapshot(at)
				want.Snapshot, want.Entries, last, commit = rd.Snapshot, nil, at, at
			}
			snap = want.Snapshot.GetMetadata().GetIndex()
			first := rapid.Uint64Range(max(commit, snap)+1, last+1).Draw(rt, "first")
			if n := rapid.Uint64Range(0, 40).Draw(rt, "entries"); n > 0 {
				rd.Entries = entries(term, first, first+n-1)
				want.Entries = append(slices.Clone(want.Entries[:first-snap-1]), rd.Entries...)
				last = first + n - 1
			}
			rd.HardState = hard(term, 0, rapid.Uint64Range(commit, last).Draw(rt, "commit"))
			want.HardState = rd.HardState
			if err := s.Save(rd); err != nil {
				rt.Fatal(err)
			}
			if err := s.Close(); err != nil {
				rt.Fatal(err)
			}
			if s, err = control.Open(path); err != nil {
				rt.Fatal(err)
			}
			have, err := s.Boot()
			if diff := cmp.Diff(want, have, protocmp.Transform(), cmp.Transformer("none", func(es []*raftpb.Entry) []*raftpb.Entry {
				return append([]*raftpb.Entry{}, es...)
			})); err != nil || diff != "" {
				rt.Fatalf("%v (-want +have):\n%s", err, diff)
			}
		}
	})
}
