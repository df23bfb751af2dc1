package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

// followWait is how long one request of --follow waits for something to happen.
const followWait = 10 * time.Second

func eventsCommand() *cobra.Command {
	var conn connection
	var asJSON, follow bool
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what has happened on this host's agent",
		Long: "Show the newest events of this host's agent: those that it saw or decided itself since it started, 1024 at most.\n" +
			"With --json one document is printed a line.",
		Example: "  flotilla events --follow --json",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e := &eventPrinter{w: cmd.OutOrStdout(), asJSON: asJSON}
			if !follow {
				return conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
					page, err := client.Events(ctx, 0, 0)
					if err != nil {
						return err
					}
					return e.print(page)
				})
			}
			return e.follow(cmd.Context(), &conn)
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, one event a line")
	c.Flags().BoolVar(&follow, "follow", false, "wait for more until interrupted")
	return c
}

// eventPrinter prints pages of events, and remembers what it has printed.
type eventPrinter struct {
	w      io.Writer
	asJSON bool
	run    string
	next   uint64
}

// follow prints events until it is interrupted, over restarts of the agent.
func (e *eventPrinter) follow(ctx context.Context, conn *connection) error {
	for {
		var page *api.EventPage
		err := conn.with(ctx, func(ctx context.Context, client *api.Client) error {
			var err error
			page, err = client.Events(ctx, e.next, followWait)
			return err
		})
		switch {
		case ctx.Err() != nil:
			return nil // interrupted: that is how it ends
		case err == nil:
			if e.run != "" && e.run != page.Run && e.next != 0 {
				e.run, e.next = page.Run, 0 // another run of the agent: from its beginning
				continue
			}
			if err := e.print(page); err != nil {
				return err
			}
			continue
		case e.run == "" || exitCode(err) != exitUnreachable:
			return err
		}
		fmt.Fprintln(os.Stderr, "flotilla:", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

func (e *eventPrinter) print(page *api.EventPage) error {
	e.run, e.next = page.Run, page.Next
	if page.Missed > 0 {
		fmt.Fprintf(os.Stderr, "flotilla: %d older events are forgotten\n", page.Missed)
	}
	var failed error
	for i := range page.Events {
		v := &page.Events[i]
		if e.asJSON {
			failed = errors.Join(failed, printJSONLine(e.w, v))
			continue
		}
		_, err := fmt.Fprintln(e.w, eventText(v))
		failed = errors.Join(failed, err)
	}
	return failed
}

func eventText(v *api.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s", v.At.Local().Format("2006-01-02 15:04:05.000"), v.Name)
	if v.Group != "" {
		fmt.Fprintf(&b, " group=%s", v.Group)
	}
	for _, k := range slices.Sorted(maps.Keys(v.Attrs)) {
		value := v.Attrs[k]
		if f, ok := value.(float64); ok { // what JSON made of a number
			value = strconv.FormatFloat(f, 'f', -1, 64)
		}
		fmt.Fprintf(&b, " %s=%v", k, value)
	}
	return b.String()
}
