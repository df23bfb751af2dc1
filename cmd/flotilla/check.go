package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

// differenceError says that targets are not what their sources are, or that nobody knows.
type differenceError struct{ text string }

func (e *differenceError) Error() string { return e.text }

func checkCommand() *cobra.Command {
	var conn connection
	var q api.CheckRequest
	var wait, asJSON, show, stop bool
	c := &cobra.Command{
		Use: "check GROUP[/VOLUME]", Short: "Compare targets with their sources while both are in use",
		Long: "Compare the targets of a group, or of one volume, with their sources, while applications go on writing: the primary puts\n" +
			"digests of what it reads into the stream of its writes, and the secondary compares when it gets there.\n" +
			"What differs is listed, and with --repair copied and compared again. A check that is under way is replaced.\n" +
			"Without --wait the command returns at once, and `flotilla status` or --show tells how far it is.\n\n" +
			"With --wait and --show the exit code is 5 when something differs that is not repaired, or could not be compared.",
		Example: "  flotilla check db --wait\n  flotilla check db/data --repair --rate 50MiB\n  flotilla check db --show --json\n  flotilla check db --stop",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			group, volume, _ := strings.Cut(args[0], "/")
			q.Volume = volume
			only := q == (api.CheckRequest{Volume: volume}) && !wait
			switch {
			case stop && (show || asJSON || !only || volume != ""):
				return &usageError{errors.New("--stop goes with a group alone")}
			case show && !only:
				return &usageError{errors.New("--show begins nothing: it goes with --json only")}
			}
			v := &checkViewer{cmd: cmd, conn: &conn, group: group, asJSON: asJSON}
			var made api.Made
			err := conn.with(cmd.Context(), func(ctx context.Context, client *api.Client) error {
				switch path := api.GroupPath(group) + "/check"; {
				case stop:
					return client.Call(ctx, http.MethodDelete, path, nil, nil)
				case !show:
					return client.Call(ctx, http.MethodPost, path, q, &made)
				}
				return nil
			})
			switch {
			case err != nil:
				return err
			case stop:
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "the check of group %s is stopped\n", group)
				return err
			case wait || show:
				return v.follow(made.ID, wait)
			case asJSON:
				return printJSON(cmd.OutOrStdout(), made)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "check %d of group %s begins: `flotilla check %s --show` tells how far it is\n", made.ID, group, group)
			return err
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&q.Repair, "repair", false, "copy what differs")
	c.Flags().Var(sizeFlag{&q.Rate}, "rate", "bytes that each primary reads a second, at least 64KiB (default 64MiB)")
	c.Flags().BoolVar(&wait, "wait", false, "wait for the end, and list what differs")
	c.Flags().BoolVar(&show, "show", false, "show the newest check and begin none")
	c.Flags().BoolVar(&stop, "stop", false, "stop the check that is under way")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// checkViewer shows a group's check.
type checkViewer struct {
	cmd    *cobra.Command
	conn   *connection
	group  string
	asJSON bool
	last   string    // line of progress
	said   time.Time // when it was printed
	found  [2]int64  // bytes that differ, and that are not known, as it said
}

// sayEvery is how often a command that waits says how far it is.
const sayEvery = 2 * time.Second

// follow shows check number, or the newest one for 0; to its end if wait is set. The captain may change on the way.
func (v *checkViewer) follow(number uint64, wait bool) error {
	ctx := v.cmd.Context()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		check, err := v.look(ctx)
		switch {
		case err != nil && (!wait || ctx.Err() != nil || exitCode(err) != exitUnreachable):
			return err
		case err == nil && check == nil && !wait:
			return fmt.Errorf("group %s was never checked: begin with `flotilla check %s`", v.group, v.group)
		case err == nil && check != nil && check.Number > number && number != 0:
			return fmt.Errorf("check %d of group %s was replaced by check %d", number, v.group, check.Number)
		case err == nil && check != nil && check.Number >= number && (!wait || !check.Running):
			return v.result(check)
		case err == nil && check != nil && check.Number >= number && !v.asJSON:
			// What was found is said at once, how far it is now and then: who looks wants to see it go on, not each step.
			found := [2]int64{check.Differing, check.Unknown}
			if line := checkText(v.group, check); line != v.last && (found != v.found || time.Since(v.said) >= sayEvery) {
				v.last, v.found, v.said = line, found, time.Now()
				if _, err := fmt.Fprintln(v.cmd.OutOrStdout(), line); err != nil {
					return err
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &api.Error{Code: api.Unavailable, Text: fmt.Sprintf("the check goes on without this command: `flotilla check %s --show`", v.group)}
		}
	}
}

// look returns the group's newest check as the captain knows it, nil for none.
func (v *checkViewer) look(ctx context.Context) (c *api.Check, err error) {
	err = v.conn.with(ctx, func(ctx context.Context, client *api.Client) error {
		s, err := client.Status(ctx)
		switch {
		case err != nil:
			return err
		case s.Group(v.group) == nil:
			return &api.Error{Code: api.NotFound, Text: fmt.Sprintf("there is no group named %q: `flotilla group list` lists them", v.group)}
		}
		c = s.Group(v.group).Check
		return nil
	})
	return c, err
}

// result prints a check, and fails when not all is well.
func (v *checkViewer) result(c *api.Check) error {
	w := v.cmd.OutOrStdout()
	var err error
	if v.asJSON {
		err = printJSON(w, c)
	} else {
		err = printCheck(w, v.group, c)
	}
	switch {
	case err != nil:
		return err
	case c.Running:
		return nil
	case c.Stopped:
		return &differenceError{fmt.Sprintf("check %d of group %s was stopped before its end", c.Number, v.group)}
	case c.Differing > c.Repaired:
		return &differenceError{fmt.Sprintf("check %d of group %s found differences that are not repaired: look at the secondary's disks, and use --repair", c.Number, v.group)}
	case c.Unknown > 0:
		return &differenceError{fmt.Sprintf("check %d of group %s could not compare everything: look at `flotilla status`, and check again", c.Number, v.group)}
	}
	return nil
}

// printCheck writes a check for people.
func printCheck(w io.Writer, group string, c *api.Check) error {
	if _, err := fmt.Fprintln(w, checkText(group, c)); err != nil || len(c.Found) == 0 {
		return err
	}
	rows := [][]string{{"VOLUME", "OFFSET", "LENGTH", "SET", "FOUND"}}
	for _, f := range c.Found {
		found := "differs"
		if f.Unreadable {
			found = "unreadable"
		}
		if f.Repaired {
			found += ", repaired"
		}
		rows = append(rows, []string{group + "/" + f.Volume, fmt.Sprint(f.Offset), fmt.Sprint(f.Length), fmt.Sprint(f.Set), found})
	}
	return table(w, rows)
}

// checkText says on one line how a check stands.
func checkText(group string, c *api.Check) string {
	what := group
	if c.Volume != "" {
		what += "/" + c.Volume
	}
	text := fmt.Sprintf("check %d of %s: ", c.Number, what)
	switch {
	case c.Running:
		text += fmt.Sprintf("%.0f%% of %s", 100*float64(c.Done)/float64(max(c.Total, 1)), bytesText(c.Total))
		if c.LeftSeconds != nil {
			text += fmt.Sprintf(", %s left", secondsText(c.LeftSeconds))
		}
	case c.Stopped:
		text += fmt.Sprintf("stopped after %s of %s", bytesText(c.Done), bytesText(c.Total))
	default:
		text += bytesText(c.Done) + " compared"
	}
	if c.Differing == 0 {
		text += ", no difference"
	} else {
		text += fmt.Sprintf(", %s in pieces that differ, %s repaired", bytesText(c.Differing), bytesText(c.Repaired))
	}
	if c.Unknown > 0 {
		text += fmt.Sprintf(", %s not known", bytesText(c.Unknown))
	}
	return text
}

// printChecks writes the newest check of each group.
func printChecks(w io.Writer, groups []api.Group) error {
	for i := range groups {
		if c := groups[i].Check; c != nil {
			if _, err := fmt.Fprintf(w, "%s, begun %s\n", checkText(groups[i].Name, c), c.Started.Local().Format("2006-01-02 15:04:05")); err != nil {
				return err
			}
		}
	}
	return nil
}
