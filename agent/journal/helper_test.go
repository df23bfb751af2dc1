package journal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"testing"
	"time"

	"flotilla/agent/journal"
	"flotilla/agent/vfs"
	"flotilla/agent/vfs/crashfs"
	"flotilla/wire"
)

const dir = "/var/journal"

// small makes segments rotate after a few records.
func small() journal.Options {
	return journal.Options{
		Dir: dir, SegmentSize: 128 << 10, Limit: 1 << 20, Reserve: 256 << 10, MaxPending: 64 << 10,
		MarkDelay: 5 * time.Millisecond, Spares: 1, Preallocate: true,
	}
}

// payload makes content that names its tag, so that a mix-up shows.
func payload(tag uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(tag, 1))
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b
}

// open opens a journal and returns what it replayed.
func open(t testing.TB, fsys vfs.FS, opt journal.Options) (*journal.Journal, []journal.Record) {
	t.Helper()
	j, records, err := tryOpen(fsys, opt)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return j, records
}

func tryOpen(fsys vfs.FS, opt journal.Options) (*journal.Journal, []journal.Record, error) {
	var records []journal.Record
	j, err := journal.Open(fsys, opt, func(r journal.Record) error {
		r.Payload = bytes.Clone(r.Payload)
		records = append(records, r)
		return nil
	})
	return j, records, err
}

func closeJournal(t testing.TB, j *journal.Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// put appends one record of group 1 and waits until it is durable.
func put(j *journal.Journal, set wire.Set, tag uint64, n int) (journal.Ref, error) {
	return putEntry(j, journal.Entry{Group: 1, Set: set, Tag: tag, Parts: [][]byte{payload(tag, n)}})
}

func putEntry(j *journal.Journal, e journal.Entry) (journal.Ref, error) {
	result := make(chan error, 1)
	ref, err := j.Append(e, func(_ journal.Ref, err error) { result <- err })
	if err != nil {
		return ref, err
	}
	return ref, <-result
}

func mustPut(t testing.TB, j *journal.Journal, set wire.Set, tag uint64, n int) journal.Ref {
	t.Helper()
	ref, err := put(j, set, tag, n)
	if err != nil {
		t.Fatalf("append %d: %v", tag, err)
	}
	return ref
}

// segments lists the names of the segment files.
func segments(t testing.TB, fsys vfs.FS) []string {
	t.Helper()
	names, err := fsys.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range names {
		if strings.HasSuffix(n, ".seg") {
			out = append(out, path.Join(dir, n))
		}
	}
	return out
}

func segmentFile(id uint64) string { return path.Join(dir, fmt.Sprintf("%016x.seg", id)) }

// wantTags checks that exactly the records with these tags, whole, were replayed in this order.
func wantTags(t testing.TB, records []journal.Record, want ...uint64) {
	t.Helper()
	var got []uint64
	for _, r := range records {
		got = append(got, r.Tag)
		if !bytes.Equal(r.Payload, payload(r.Tag, len(r.Payload))) {
			t.Errorf("record %d: wrong payload of %d bytes", r.Tag, len(r.Payload))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("replayed %v, want %v", got, want)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func newFS() *crashfs.FS { return crashfs.New(1) }
