package main

import (
	"bytes"
	"context"
	"errors"
	"strconv"

	"flotilla/nbd/nbdclient"

	"github.com/rogpeppe/go-internal/testscript"
)

// blockOf is a block of 4 KiB that a script names by a word.
func blockOf(word string) []byte { return bytes.Repeat([]byte(word+" "), 4096/(len(word)+1)+1)[:4096] }

// onExport calls f with a client of an export that an agent serves on its socket.
func onExport(ts *testscript.TestScript, agent, export string, f func(ctx context.Context, c *nbdclient.Client) error) {
	ctx, cancel := context.WithTimeout(context.Background(), untilTime)
	defer cancel()
	c, err := nbdclient.Dial(ctx, "unix", ts.Getenv("S")+"/"+agent+".nbd", export)
	ts.Check(err)
	ts.Check(errors.Join(f(ctx, c), c.Close()))
}

// nbdWrite AGENT EXPORT BLOCK WORD
func nbdWrite(ts *testscript.TestScript, _ bool, args []string) {
	block, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	onExport(ts, args[0], args[1], func(ctx context.Context, c *nbdclient.Client) error {
		return c.WriteAt(ctx, blockOf(args[3]), block*4096, nbdclient.FUA)
	})
}

// nbdRead AGENT EXPORT BLOCK WORD
func nbdRead(ts *testscript.TestScript, neg bool, args []string) {
	block, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	got := make([]byte, 4096)
	onExport(ts, args[0], args[1], func(ctx context.Context, c *nbdclient.Client) error { return c.ReadAt(ctx, got, block*4096) })
	if want := blockOf(args[3]); bytes.Equal(got, want) == neg {
		ts.Fatalf("block %d of %s on %s begins with %.40q, and with %.40q it is to be equal: %v", block, args[1], args[0], got, want, !neg)
	}
}
