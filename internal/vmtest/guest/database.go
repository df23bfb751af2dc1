package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// kills is how often the agent is killed under the database.
const kills = 10

// inserter inserts rows into a SQLite database, each in a transaction of its own, and says so when it is committed. With less
// than EXTRA the end of the last transaction's journal would not be on disk then, and a crash would take that one back.
const inserter = `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA synchronous=EXTRA")
db.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, text TEXT)")
n = 0
while True:
    n += 1
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO rows VALUES (?, ?)", (n, "row %d " % n * 20))
    db.execute("COMMIT")
    print(n, flush=True)
`

// checker prints SQLite's own verdict, and how many of the first rows are there.
const checker = `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("PRAGMA integrity_check").fetchone()[0])
print(db.execute("SELECT count(*) FROM rows WHERE n <= ? AND text = replace(printf('%.20c', 'x'), 'x', 'row ' || n || ' ')", (int(sys.argv[2]),)).fetchone()[0])
`

// rows follows what the inserter has had acknowledged.
type rows struct {
	*machine
	process *exec.Cmd
	done    sync.WaitGroup

	mu      sync.Mutex
	acked   int
	at      time.Time
	longest time.Duration // between two
	text    strings.Builder
	ended   bool
}

// startRows begins to insert. Each number that is acknowledged goes to the writers, too, a line each.
func (m *machine) startRows(path string, to ...io.Writer) (*rows, error) {
	r := &rows{machine: m, process: exec.Command("python3", "-c", inserter, path), at: time.Now()}
	out, err := r.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.process.Stderr = &r.text
	if err := r.process.Start(); err != nil {
		return nil, err
	}
	r.done.Go(func() { r.follow(io.TeeReader(out, io.MultiWriter(to...))) })
	return r, nil
}

func (r *rows) follow(out io.Reader) {
	for s := bufio.NewScanner(out); s.Scan(); {
		n, err := strconv.Atoi(s.Text())
		if err != nil {
			continue
		}
		r.mu.Lock()
		now := time.Now()
		if r.acked > 0 {
			r.longest = max(r.longest, now.Sub(r.at))
		}
		r.acked, r.at = n, now
		r.mu.Unlock()
	}
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
}

// stop ends the inserter as a power failure would end it.
func (r *rows) stop() error {
	err := r.process.Process.Kill()
	r.done.Wait()
	_ = r.process.Wait() // it was killed
	return err
}

// halt sends the inserter's end on its way; it may wait for a device before it can end.
func (r *rows) halt() error { return r.process.Process.Kill() }

// gone waits for the end of an inserter that was halted.
func (r *rows) gone() error {
	r.done.Wait()
	_ = r.process.Wait() // it was killed
	return nil
}

// count returns how many rows are acknowledged.
func (r *rows) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acked
}

// more waits until n more rows are acknowledged.
func (r *rows) more(ctx context.Context, n int) error {
	r.mu.Lock()
	want := r.acked + n
	r.mu.Unlock()
	return r.until(ctx, "the database goes on", func() (bool, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.ended {
			return false, fmt.Errorf("the database's client has ended by itself: %s", r.text.String())
		}
		return r.acked >= want, nil
	})
}

// takeLongest returns the longest time between two rows, and forgets it.
func (r *rows) takeLongest() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.longest
	r.longest = 0
	return d
}

// withDatabase makes a file system on the volume with a database that rows go into, calls f, and looks whether every
// acknowledged row is there.
func withDatabase(c *cluster, f func(r *rows) error, flags ...string) error {
	if err := c.attach(flags...); err != nil {
		return err
	}
	at := filepath.Join(c.dir, "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	for _, step := range [][]string{{"mkfs.ext4", "-q", "-F", link}, {"mount", "-o", "errors=continue", link, at}} {
		if err := c.sh(step[0], step[1:]...); err != nil {
			return err
		}
	}
	path := filepath.Join(at, "rows.sqlite")
	r, err := c.startRows(path)
	if err != nil {
		return err
	}
	err = r.more(c.ctx, 20)
	if err == nil {
		err = f(r)
	}
	if stopErr := r.stop(); err != nil || stopErr != nil {
		return fmt.Errorf("%w; the database's client: %s", errors.Join(err, stopErr), r.text.String())
	}
	say("%d rows were acknowledged", r.acked)
	out, err := exec.CommandContext(c.ctx, "python3", "-c", checker, path, strconv.Itoa(r.acked)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("check the database: %w: %s", err, out)
	}
	if got, want := strings.Fields(string(out)), []string{"ok", strconv.Itoa(r.acked)}; len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		return fmt.Errorf("the database says %q, want %q", got, want)
	}
	for _, step := range [][]string{{"umount", at}, {"e2fsck", "-fn", link}} {
		if err := c.sh(step[0], step[1:]...); err != nil {
			return err
		}
	}
	return errors.Join(c.detach(), noErrors())
}

// database kills the agent again and again under a database.
func database(ctx context.Context, c *cluster) error {
	return withDatabase(c, func(r *rows) error {
		for i := range kills {
			r.takeLongest()
			if err := c.primary.Kill(); err != nil {
				return err
			}
			if err := c.fleet.Launch(c.primary); err != nil {
				return err
			}
			if err := r.more(ctx, 10); err != nil {
				return fmt.Errorf("after kill %d: %w", i+1, err)
			}
			say("kill %d: the longest pause was %v", i+1, r.takeLongest().Round(time.Millisecond))
		}
		return nil
	}, "--timeout", "3s")
}
