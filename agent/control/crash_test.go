package control_test

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"flotilla/agent/control"
	"flotilla/agent/core"
)

// childPath makes the test binary a process that saves until it is killed.
const childPath = "FLOTILLA_CONTROL_CHILD"

// childRecovers makes that process recover instead.
const childRecovers = "FLOTILLA_CONTROL_RECOVERS"

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		work := saveUntilKilled
		if os.Getenv(childRecovers) != "" {
			work = recoverUntilKilled
		}
		err := work(path)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// readyAt is the Ready that brings a log from index i-1 to i.
func readyAt(i uint64) core.Ready {
	rd := core.Ready{Entries: entries(i, i, i), HardState: hard(i, 1, i-1)}
	rd.Entries[0].Data = bytes.Repeat([]byte{byte(i)}, int(i*997%20_000))
	if i%7 == 0 {
		rd.Snapshot, rd.Compact = snapshot(i-2), i-2
		rd.Snapshot.Data = bytes.Repeat([]byte{byte(i)}, 50_000)
	}
	return rd
}

// saveUntilKilled says on standard output which index is durable. Its limits only matter when nobody kills it.
func saveUntilKilled(path string) error {
	s, err := control.Open(path)
	if err != nil {
		return err
	}
	b, err := s.Boot()
	if err != nil {
		return err
	}
	for i := b.Snapshot.GetMetadata().GetIndex() + uint64(len(b.Entries)) + 1; i < 100_000; i++ {
		if err := s.Save(readyAt(i)); err != nil {
			return err
		}
		if _, err := fmt.Println(i); err != nil {
			return err
		}
	}
	return fmt.Errorf("nobody killed this process")
}

// A process killed inside any Save leaves all of what it had acknowledged, and at most one Ready more.
func TestKilledWhileSaving(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "control.db")
	acked := uint64(0)
	for range 8 {
		from := acked
		stopAt := acked + 1 + random.Uint64N(30)
		child := exec.Command(os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), childPath+"="+path)
		var stderr bytes.Buffer
		child.Stderr = &stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		killed := false
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			i, err := strconv.ParseUint(strings.TrimSpace(lines.Text()), 10, 64)
			if err != nil || (i != acked+1 && !(acked == from && i == from+2)) {
				t.Errorf("child says %q after index %d", lines.Text(), acked)
			}
			acked = i
			if acked >= stopAt && !killed {
				killed = true
				if err := child.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		}
		_ = child.Wait() // it was killed
		if !killed {
			t.Fatalf("child ended by itself: %s", stderr.String())
		}
		s, err := control.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.Boot()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		last := b.Snapshot.GetMetadata().GetIndex() + uint64(len(b.Entries))
		if last < acked || last > acked+1 {
			t.Fatalf("log ends at %d after %d was acknowledged", last, acked)
		}
		if b.HardState.GetTerm() != last || b.HardState.GetCommit() != last-1 {
			t.Fatalf("hard state is %v at index %d", b.HardState, last)
		}
		if want := last / 7 * 7; want > 0 && b.Snapshot.GetMetadata().GetIndex() != want-2 {
			t.Fatalf("snapshot is at %d at index %d", b.Snapshot.GetMetadata().GetIndex(), last)
		}
		for _, e := range b.Entries {
			if !bytes.Equal(e.GetData(), readyAt(e.GetIndex()).Entries[0].GetData()) {
				t.Fatalf("entry %d does not hold what was saved", e.GetIndex())
			}
		}
	}
}
