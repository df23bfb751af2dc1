// Command guest runs scenarios inside a virtual machine: see package vmtest. Each scenario stands in a file of its own.
// Most begin with a cluster of two agents (cluster.go); those of alone make what they need.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// onCluster are the scenarios on the cluster of cluster.go.
var onCluster = map[string]func(context.Context, *cluster) error{
	"attach":      attachOften,
	"database":    database,
	"dead":        deadAgent,
	"filesystems": fileSystems,
	"mistakes":    mistakes,
	"partitions":  partitions,
	"restarts":    plannedRestarts,
	"resize":      resize,
	"sparse":      sparse,
}

// alone are the scenarios that make their own clusters.
var alone = map[string]func(context.Context, *machine) error{
	"powercuts": powerCuts,
	"powerloss": powerLoss,
	"promote":   promote,
	"sleep":     sleep,
}

// machine is what a scenario has to work with.
type machine struct {
	program string   // under test
	dir     string   // for everything that may be lost
	keep    string   // a directory of the host, whatever becomes of the machine
	disks   []string // devices
	modules string   // directory with the kernel's
	rounds  int      // 0: as many as the scenario has by default
	// patience lengthens every wait, for a machine that is slow or does much else.
	patience time.Duration
}

// scenarioTime bounds a scenario of so many rounds: less than what the host gives the whole machine.
func (m *machine) scenarioTime() time.Duration {
	return m.patience * (260*time.Second + time.Duration(m.rounds)*60*time.Second)
}

func main() {
	var m machine
	var disks string
	flag.StringVar(&m.program, "flotilla", "", "the program under test")
	flag.StringVar(&m.dir, "dir", "", "directory for everything")
	flag.StringVar(&m.keep, "keep", "", "directory of the host, for the verdict")
	flag.StringVar(&m.modules, "modules", "", "directory with the kernel's modules")
	flag.StringVar(&disks, "disks", "", "block devices, separated by commas")
	flag.IntVar(&m.rounds, "rounds", 0, "of a scenario that repeats something; 0 is its default")
	patience := flag.Int("patience", 1, "how much longer every wait may take")
	flag.Parse()
	m.patience = time.Duration(*patience)
	m.disks = strings.FieldsFunc(disks, func(r rune) bool { return r == ',' })
	word := "ok"
	for _, name := range flag.Args() {
		began := time.Now()
		say("=== %s", name)
		err := m.run(name)
		if err != nil {
			word = fmt.Sprintf("FAIL: %s: %v", name, err)
			break // what follows would fail for that
		}
		say("=== %s passed in %v", name, time.Since(began).Round(100*time.Millisecond))
	}
	if err := os.WriteFile(filepath.Join(m.keep, "verdict"), []byte(word+"\n"), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run runs one scenario in a directory of its own, which is gone afterwards but for the logs of its agents.
func (m machine) run(name string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), m.scenarioTime())
	defer cancel()
	if err := markLog(); err != nil {
		return err
	}
	m.dir = filepath.Join(m.dir, name)
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, saveLogs(m.dir, m.keep))
		if err == nil { // otherwise something may be mounted that nobody serves any more
			err = os.RemoveAll(m.dir)
		}
	}()
	if f, ok := alone[name]; ok {
		return f(ctx, &m)
	}
	f, ok := onCluster[name]
	if !ok {
		return fmt.Errorf("there is no scenario %q", name)
	}
	if name != "mistakes" { // which begins without it
		if err := m.load("nbd", nbdParams); err != nil {
			return err
		}
	}
	c, err := assemble(ctx, &m)
	if err != nil {
		return err
	}
	return c.end(f(c.ctx, c))
}

// saveLogs puts the agents' logs where the host finds them.
func saveLogs(from, to string) error {
	logs, err := filepath.Glob(filepath.Join(from, "*.log"))
	if err != nil {
		return err
	}
	for _, l := range logs {
		text, err := os.ReadFile(l)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(from)+"-"+filepath.Base(l)), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
