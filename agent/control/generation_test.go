package control_test

import (
	"bufio"
	"errors"
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

	bolt "go.etcd.io/bbolt"
)

// generationBoot is what generation g begins from.
func generationBoot(g uint64) core.Boot {
	return core.Boot{HardState: hard(g*10, 0, g*100), Snapshot: snapshot(g * 100)}
}

func generations(t *testing.T, s *control.Store) control.Generations {
	t.Helper()
	g, err := s.Generations()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// A generation replaces everything, and what is saved behind it follows it; promises outlive a restart.
func TestRecover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.db")
	s := open(t, path)
	if err := s.Initialize(core.Boot{HardState: hard(5, 2, 12), Snapshot: snapshot(10), Entries: entries(5, 11, 40)}); err != nil {
		t.Fatal(err)
	}
	if g := generations(t, s); g != (control.Generations{}) {
		t.Errorf("at first: %+v", g)
	}
	if err := s.Promise(1); err != nil {
		t.Fatal(err)
	}
	s = holds(t, s, path, core.Boot{HardState: hard(5, 2, 12), Snapshot: snapshot(10), Entries: entries(5, 11, 40)})
	if g := generations(t, s); g != (control.Generations{Promised: 1}) {
		t.Errorf("after a promise: %+v", g)
	}
	if err := s.Recover(2, generationBoot(2)); err != nil {
		t.Fatal(err)
	}
	s = holds(t, s, path, generationBoot(2))
	if g := generations(t, s); g != (control.Generations{Promised: 2}) {
		t.Errorf("after a recovery: %+v", g)
	}
	if err := s.Save(core.Ready{HardState: hard(21, 1, 201), Entries: entries(21, 201, 202)}); err != nil {
		t.Fatal(err)
	}
	want := core.Boot{HardState: hard(21, 1, 201), Snapshot: snapshot(200), Entries: entries(21, 201, 202)}
	s = holds(t, s, path, want)
	if err := s.Recover(1, generationBoot(1)); !errors.Is(err, control.ErrGeneration) {
		t.Errorf("an older generation: %v", err)
	}
	if err := s.Recover(3, core.Boot{HardState: hard(30, 0, 301), Snapshot: snapshot(300), Entries: entries(30, 301, 301)}); !errors.Is(err, control.ErrOrder) {
		t.Errorf("a generation with entries: %v", err)
	}
	s = holds(t, s, path, want)
	if err := s.MarkBehind(7); err != nil {
		t.Fatal(err)
	}
	s = holds(t, s, path, want)
	if g := generations(t, s); g != (control.Generations{Promised: 2, Behind: 7}) {
		t.Errorf("after being left behind: %+v", g)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, path, func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("state")).Put([]byte("promised"), []byte{1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 1})
	})
	s = open(t, path)
	if _, err := s.Generations(); !errors.Is(err, control.ErrCorrupt) {
		t.Errorf("a promise that has rotted: %v", err)
	}
}

// recoverUntilKilled begins one generation after the other, with entries in between, and says which is durable.
func recoverUntilKilled(path string) error {
	s, err := control.Open(path)
	if err != nil {
		return err
	}
	made, err := s.Generations()
	if err != nil {
		return err
	}
	for g := made.Promised + 1; g < 100_000; g++ {
		if err := s.Recover(g, generationBoot(g)); err != nil {
			return err
		}
		if _, err := fmt.Println(g); err != nil {
			return err
		}
		if err := s.Save(core.Ready{Entries: entries(g*10, g*100+1, g*100+20)}); err != nil {
			return err
		}
	}
	return fmt.Errorf("nobody killed this process")
}

// A process killed inside a recovery leaves all of the old generation or all of the new one.
func TestKilledWhileRecovering(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "control.db")
	for range 8 {
		child := exec.Command(os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), childPath+"="+path, childRecovers+"=1")
		var stderr strings.Builder
		child.Stderr = &stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		said, stop := uint64(0), 1+random.IntN(20)
		for lines := bufio.NewScanner(out); lines.Scan(); stop-- {
			if said, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
			if stop == 0 {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = child.Wait() // it was killed
		if stop >= 0 {
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
		g := generations(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		want := generationBoot(g.Promised)
		if g.Promised < said || g.Promised > said+1 || b.HardState.GetTerm() != want.HardState.GetTerm() ||
			b.Snapshot.GetMetadata().GetIndex() != want.Snapshot.GetMetadata().GetIndex() || (len(b.Entries) != 0 && len(b.Entries) != 20) {
			t.Fatalf("generation %d after %d was said, with %v, snapshot %v and %d entries", g.Promised, said, b.HardState, b.Snapshot.GetMetadata(), len(b.Entries))
		}
	}
}
