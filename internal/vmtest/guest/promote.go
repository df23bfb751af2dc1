package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"flotilla/agent/api"
	"flotilla/internal/fleet"
	"flotilla/nbd/kernel"
)

// promotedSize is what each of the two volumes has.
const promotedSize = 128 << 20

// side is one group of the promote's scenario: a volume with a database, and what is known of its rows.
type side struct {
	group  string
	mode   string
	rows   *rows
	source string // device's node on the primary
	at     string // mount point there
	must   int    // rows that a promote has to find
}

// promote lets a component die under two databases, an async and a sync one, promotes both groups under their feet, attaches the
// promoted volumes on the secondary, and looks for the rows: all of the acknowledged ones in sync; in async at least those that
// were written before a known cut, and none without those before it.
func promote(ctx context.Context, m *machine) error {
	if err := m.load("nbd", nbdParams); err != nil {
		return err
	}
	c := newCluster(ctx, m)
	return c.end(c.promote())
}

func (c *cluster) promote() error {
	// Losses are to be seen, on one slow processor.
	const settings = "limits: {loss_after: 8s, last_loss_after: 20s}\n" + profiled
	hosts := map[string]*fleet.Host{}
	for _, h := range []struct{ name, roles string }{{"p", "primary"}, {"b", "backup"}, {"s", "backup, secondary"}} {
		var err error
		if hosts[h.name], err = c.fleet.Add(fleet.Member{Name: h.name, Roles: h.roles, Settings: settings}); err != nil {
			return err
		}
	}
	c.primary, c.secondary = hosts["p"], hosts["s"]
	if err := c.fleet.Assemble(c.ctx, func(*fleet.Host) {}); err != nil {
		return err
	}
	sides := []*side{{group: "loose", mode: "async"}, {group: "tight", mode: "sync"}}
	for _, s := range sides {
		if err := c.begin(s); err != nil {
			return err
		}
	}
	defer func() {
		for _, s := range sides {
			if s.rows != nil {
				_ = s.rows.halt() // it has ended, unless something failed
			}
		}
	}()
	if err := c.settledView(); err != nil {
		return err
	}

	say("component b dies")
	if err := hosts["b"].Kill(); err != nil {
		return err
	}
	if err := c.until(c.ctx, "component b is declared lost", func() (bool, error) {
		st, err := c.secondary.Status(c.ctx)
		return st != nil && st.Component("b").Lost, err
	}); err != nil {
		return err
	}
	say("component b is lost: updates have one copy")
	for _, s := range sides {
		if err := s.rows.more(c.ctx, 20); err != nil {
			return fmt.Errorf("group %s after the loss: %w", s.group, err)
		}
	}
	if err := c.knownCut(sides[0]); err != nil {
		return err
	}
	for _, s := range sides {
		if err := s.rows.more(c.ctx, 10); err != nil {
			return fmt.Errorf("group %s: %w", s.group, err)
		}
	}

	for _, s := range sides {
		if err := c.promoteSide(s); err != nil {
			return fmt.Errorf("group %s: %w", s.group, err)
		}
	}
	return errors.Join(noErrors(), c.dropSources(sides))
}

// begin makes a group, and a database on its volume.
func (c *cluster) begin(s *side) error {
	source, target := filepath.Join(c.dir, s.group+"-source"), filepath.Join(c.dir, s.group+"-target")
	if err := errors.Join(sparseFile(source, promotedSize), sparseFile(target, promotedSize)); err != nil {
		return err
	}
	if err := c.insist("group", "create", s.group, "--mode", s.mode); err != nil {
		return err
	}
	if err := c.insist("volume", "create", s.group+"/data", "--primary", "p", "--source", source, "--secondary", "s", "--target", target); err != nil {
		return err
	}
	d, err := c.attachOn(c.primary, s.group+"/data")
	if err != nil {
		return err
	}
	s.source, s.at = d.Device, filepath.Join(c.dir, s.group+"-mnt")
	if err := os.Mkdir(s.at, 0o755); err != nil {
		return err
	}
	if err := c.steps([][]string{{"mkfs.ext4", "-q", "-F", s.source}, {"mount", s.source, s.at}}); err != nil {
		return err
	}
	if s.rows, err = c.startRows(filepath.Join(s.at, "rows.sqlite")); err != nil {
		return err
	}
	go s.rows.explain(c.ctx, 30*time.Second, "stuck-"+s.group, c.primary, c.secondary)
	return s.rows.more(c.ctx, 10)
}

// attachOn attaches a volume on a host, as soon as it is served there.
func (c *cluster) attachOn(h *fleet.Host, name string) (d api.BlockDevice, err error) {
	err = c.until(c.ctx, "volume "+name+" is attached on "+h.Name, func() (bool, error) {
		out, err := c.fleet.Command(c.ctx, "volume", "attach", name, "--json", "--config", h.Config)
		if err != nil && strings.Contains(err.Error(), "not served here") {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		return true, json.Unmarshal([]byte(out), &d)
	})
	if err == nil {
		say("%s is %s on %s", name, d.Device, h.Name)
	}
	return d, err
}

// settledView waits until everything held has its second copy.
func (c *cluster) settledView() error {
	return c.until(c.ctx, "the view is settled", func() (bool, error) {
		st, err := c.secondary.Status(c.ctx)
		return st != nil && st.Settled, err
	})
}

// knownCut notes how many rows are acknowledged, and waits until the set that was open then, or a later one, is committed.
func (c *cluster) knownCut(s *side) error {
	n, at := s.rows.count(), time.Now()
	var open uint64
	return c.until(c.ctx, "a cut has the rows of now", func() (bool, error) {
		st, err := c.secondary.Status(c.ctx)
		if st == nil || err != nil {
			return false, err
		}
		g := st.Group(s.group)
		for _, a := range st.Agents {
			// What it said after that moment names the set that was open then, or a later one.
			if open == 0 && a.Name == "p" && a.HeardSeconds != nil && time.Duration(*a.HeardSeconds*float64(time.Second))+100*time.Millisecond < time.Since(at) {
				open = g.Primaries[0].Open
			}
		}
		if open == 0 || g.Committed < open {
			return false, nil
		}
		s.must = n
		say("group %s: row %d is in set %d or before it, and set %d is committed", s.group, n, open, g.Committed)
		return true, nil
	})
}

// promoteSide promotes a group, attaches its target on the secondary, and looks at what is on it.
func (c *cluster) promoteSide(s *side) error {
	plan, err := c.fleet.Command(c.ctx, "promote", s.group, "--plan", "--config", c.secondary.Config)
	if err != nil {
		return err
	}
	out, err := c.fleet.Command(c.ctx, "promote", s.group, "--config", c.secondary.Config)
	if err != nil {
		return err
	}
	if err := s.rows.halt(); err != nil { // it went on until now; a sync volume has stopped answering
		return err
	}
	say("the plan of %s: %s; the promote: %s", s.group, strings.TrimSpace(plan), strings.TrimSpace(out))
	d, err := c.attachOn(c.secondary, s.group+"/data")
	if err != nil {
		return err
	}
	if d.Device == s.source {
		return fmt.Errorf("the promoted volume is %s, which is the old primary's", d.Device)
	}
	at := filepath.Join(c.dir, s.group+"-promoted")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if err := c.sh("mount", d.Device, at); err != nil { // its journal is replayed
		return err
	}
	if _, err := os.Stat(filepath.Join(at, "rows.sqlite-journal")); err == nil {
		say("group %s: a transaction is under way there, and is taken back", s.group)
	}
	got, err := c.rowsAt(filepath.Join(at, "rows.sqlite"))
	if err != nil {
		return err
	}
	acked := s.rows.count() // its last words have been read since
	if s.mode == "sync" {
		s.must = acked
	}
	say("group %s (%s): %d rows are there; %d were acknowledged, %d of them had to be there", s.group, s.mode, got, acked, s.must)
	if got < s.must || got > acked+1 {
		return fmt.Errorf("%d rows are there, want %d to %d", got, s.must, acked+1)
	}
	// It is a volume like another: it takes writes, and keeps them.
	if err := syncFile(filepath.Join(at, "after")); err != nil {
		return err
	}
	if err := c.steps([][]string{{"umount", at}, {"e2fsck", "-fn", d.Device}, {"mount", d.Device, at}}); err != nil {
		return err
	}
	if text, err := os.ReadFile(filepath.Join(at, "after")); err != nil || len(text) == 0 {
		return fmt.Errorf("what was written to the promoted volume: %q, %w", text, err)
	}
	if err := c.sh("umount", at); err != nil {
		return err
	}
	_, err = c.fleet.Command(c.ctx, "volume", "detach", s.group+"/data", "--config", c.secondary.Config)
	return err
}

// prefixChecker prints SQLite's own verdict, the number of rows, and how many of them are what was written as the first ones.
const prefixChecker = `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("PRAGMA integrity_check").fetchone()[0])
n = db.execute("SELECT count(*) FROM rows").fetchone()[0]
print(n)
print(db.execute("SELECT count(*) FROM rows WHERE n <= ? AND text = replace(printf('%.20c', 'x'), 'x', 'row ' || n || ' ')", (n,)).fetchone()[0])
`

// rowsAt returns how many rows a database has, and wants them to be the first ones.
func (c *cluster) rowsAt(path string) (int, error) {
	out, err := exec.CommandContext(c.ctx, "python3", "-c", prefixChecker, path).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("check the database: %w: %s", err, out)
	}
	words := strings.Fields(string(out))
	if len(words) != 3 || words[0] != "ok" || words[1] != words[2] {
		return 0, fmt.Errorf("the database says %q, want ok and a prefix of the rows", words)
	}
	return strconv.Atoi(words[1])
}

// dropSources takes the old primary's devices down, so that nothing waits for them when the machine ends.
func (c *cluster) dropSources(sides []*side) error {
	k, err := kernel.Open(kernel.Options{})
	if err != nil {
		return err
	}
	for _, s := range sides {
		n, err := strconv.Atoi(strings.TrimPrefix(s.source, "/dev/nbd"))
		if err != nil {
			return err
		}
		if err := k.Disconnect(n); err != nil {
			return err
		}
		if err := s.rows.gone(); err != nil {
			return err
		}
		if err := c.sh("umount", s.at); err != nil {
			return err
		}
	}
	return nil
}

// syncFile makes a file that is there for good.
func syncFile(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.WriteString("written after the promote")
	return errors.Join(err, f.Sync(), f.Close())
}
