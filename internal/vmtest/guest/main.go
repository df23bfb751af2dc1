// Command guest runs one scenario inside a virtual machine: see package vmtest. Each scenario stands in a file of its own and
// begins with a cluster of two agents (cluster.go).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"
)

// scenarioTime bounds a scenario: less than what the host gives the whole machine.
const scenarioTime = 260 * time.Second

func main() {
	program := flag.String("flotilla", "", "the program under test")
	dir := flag.String("dir", "", "directory for everything")
	verdict := flag.String("verdict", "", "file for the verdict")
	flag.Parse()
	err := run(*program, *dir, flag.Arg(0))
	word := "ok"
	if err != nil {
		word = "FAIL: " + err.Error()
	}
	if err := os.WriteFile(*verdict, []byte(word+"\n"), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(program, dir, name string) error {
	scenario, ok := map[string]func(context.Context, *cluster) error{
		"attach": attachOften, "filesystems": fileSystems, "database": database,
	}[name]
	if !ok {
		return fmt.Errorf("there is no scenario %q", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scenarioTime)
	defer cancel()
	c, err := assemble(ctx, program, dir)
	if err != nil {
		return err
	}
	err = scenario(c.ctx, c)
	if cause := context.Cause(c.ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	return errors.Join(err, c.fleet.Close())
}
