// Command flotilla replicates block devices: it is the agent that runs on every host, and the command line to it.
//
// Each command has a file of its own. root.go puts them together, exit.go says what exit codes mean, connect.go finds the
// agent on this host, and output.go prints.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

// run is main for the binary and for tests that run as it.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "flotilla:", err)
	}
	return exitCode(err)
}
