package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"flotilla/agent/api"

	"github.com/spf13/cobra"
)

// progressEvery is how often a promote's progress is asked for.
const progressEvery = 300 * time.Millisecond

func promoteCommand() *cobra.Command {
	var conn connection
	var plan, asJSON, force bool
	var wait time.Duration
	c := &cobra.Command{
		Use:   "promote GROUP",
		Short: "Fence a group's primaries and bring its targets to the newest recovery point",
		Long: "Fence a group's primaries, bring its targets to the newest recovery point, and serve them over NBD. The dead site is\n" +
			"not needed. With --plan nothing is done: it says which point would be reached and what would be lost. A promote that\n" +
			"was interrupted goes on; asking again shows it.",
		Example: "  flotilla promote db --plan\n  flotilla promote db",
		Args:    arguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			p := &promotion{conn: &conn, w: cmd.OutOrStdout(), group: args[0], asJSON: asJSON, force: force}
			if plan {
				return p.plan(cmd.Context())
			}
			return p.run(cmd.Context(), wait)
		},
	}
	conn.flags(c)
	c.Flags().BoolVar(&plan, "plan", false, "only say what would happen")
	c.Flags().BoolVar(&force, "force", false, "also when acknowledged writes may be missing: the plan says so")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().DurationVar(&wait, "wait", 10*time.Minute, "how long to wait for the end")
	return c
}

// promotion is one call of the command.
type promotion struct {
	conn   *connection
	w      io.Writer
	group  string
	asJSON bool
	force  bool
}

func (p *promotion) plan(ctx context.Context) error {
	return p.conn.with(ctx, func(ctx context.Context, client *api.Client) error {
		plan, err := client.Plan(ctx, p.group)
		if err != nil {
			return explainNoCaptain(ctx, client, err)
		}
		if p.asJSON {
			return printJSON(p.w, plan)
		}
		_, err = io.WriteString(p.w, planText(plan))
		return err
	})
}

// planText says what a promote would come to.
func planText(p *api.Plan) string {
	text := fmt.Sprintf("group %s is %s\n", p.Group, p.Phase)
	switch {
	case p.Point == nil:
		text += "there is no recovery point yet: the targets would be of no use\n"
	default:
		text += fmt.Sprintf("newest committed recovery point: the cut after set %d, %s, %.1f s ago\n",
			p.Point.Set, p.Point.Label.Local().Format("2006-01-02 15:04:05.000"), p.AgeSeconds)
	}
	if p.Prefix {
		text += "what components hold above that cut counts, too\n"
	}
	if p.LostKnown {
		text += fmt.Sprintf("lost at most: %.1f s, %s, %d writes\n", p.LostSeconds, bytesText(p.LostBytes), p.LostUpdates)
	} else {
		text += fmt.Sprintf("lost: not known, a primary has not been heard of; at least the last %.1f s are in doubt\n", p.AgeSeconds)
	}
	for _, v := range p.Uncopied {
		text += fmt.Sprintf("volume %s has no whole first copy: its target would be of no use\n", v)
	}
	if p.Doubted {
		text += "writes that were acknowledged may be missing: components that held them together were lost; promote wants --force\n"
	}
	if p.Degraded != nil && p.Degraded.Phase != "asked" {
		text += fmt.Sprintf("it is sync and degraded since %s: writes that were acknowledged since then may be missing; promote wants --force\n",
			p.Degraded.Since.Local().Format("2006-01-02 15:04:05"))
	}
	if p.Torn {
		text += "a set was lost while it was being applied: the targets are not at a recovery point\n"
	}
	return text
}

// run asks for the promote and waits for its end.
func (p *promotion) run(ctx context.Context, wait time.Duration) error {
	if !p.asJSON {
		if err := p.plan(ctx); err != nil {
			return err
		}
	}
	err := p.conn.with(ctx, func(ctx context.Context, client *api.Client) error {
		err := client.Call(ctx, http.MethodPost, api.GroupPath(p.group)+"/promote", api.PromoteRequest{Force: p.force}, nil)
		return explainNoCaptain(ctx, client, err)
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	g, err := p.follow(ctx)
	if err != nil {
		return err
	}
	return p.report(ctx, g)
}

// follow prints progress until the group is promoted. The captain may change on the way.
func (p *promotion) follow(ctx context.Context) (*api.Group, error) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	last := ""
	for {
		var g *api.Group
		err := p.conn.with(ctx, func(ctx context.Context, client *api.Client) error {
			s, err := client.Status(ctx)
			if err == nil {
				g = s.Group(p.group)
			}
			return err
		})
		switch {
		case err != nil && ctx.Err() == nil && exitCode(err) != exitUnreachable:
			return nil, err
		case err == nil && g == nil:
			return nil, fmt.Errorf("group %q was deleted meanwhile", p.group)
		case err == nil && g.Phase == "promoted":
			return g, nil
		case err == nil:
			if step := stepText(g); step != last && !p.asJSON {
				last = step
				if _, err := fmt.Fprintln(p.w, step); err != nil {
					return nil, err
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, &api.Error{Code: api.Unavailable, Text: fmt.Sprintf(
				"the promote of %q goes on without this command (%s): `flotilla promote %s` shows it again", p.group, last, p.group)}
		}
	}
}

// stepText says where a promote stands.
func stepText(g *api.Group) string {
	switch {
	case g.Promote == nil:
		return "fencing the primaries"
	case g.Promote.Sealed < g.Promote.Incarnation:
		return fmt.Sprintf("fenced; sealing what is held, %d of %d incarnations", g.Promote.Sealed, g.Promote.Incarnation)
	case !g.Promote.Chosen:
		return "sealed; choosing the recovery point"
	}
	return fmt.Sprintf("rolling to set %d, at %d", g.Promote.Final, g.Applied)
}

// exported is where a promoted volume is served.
type exported struct {
	Volume string   `json:"volume"`
	Agent  string   `json:"agent"`
	URIs   []string `json:"uris"`
}

// serveWait bounds the wait for the targets of a promoted group to be served.
const serveWait = 15 * time.Second

// exports finds out where the targets of a promoted group are served. An agent that serves NBD is given a moment.
func (p *promotion) exports(ctx context.Context, g *api.Group) ([]exported, error) {
	ctx, cancel := context.WithTimeout(ctx, serveWait)
	defer cancel()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		var found []exported
		var waiting bool
		err := p.conn.with(ctx, func(ctx context.Context, client *api.Client) error {
			var err error
			found, waiting, err = askExports(ctx, client, g)
			return err
		})
		if !waiting {
			return found, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return found, err
		}
	}
}

// askExports asks the secondaries of a group what they serve. waiting says that one that serves NBD has not all yet.
func askExports(ctx context.Context, client *api.Client, g *api.Group) (found []exported, waiting bool, err error) {
	for _, v := range g.Volumes {
		if v.Removed != nil {
			continue
		}
		e := exported{Volume: v.Name, Agent: v.Secondary, URIs: []string{}}
		local, lerr := client.Local(ctx, v.Secondary)
		if lerr != nil {
			err = errors.Join(err, fmt.Errorf("ask %s where it serves volume %s: %w", v.Secondary, v.Name, lerr))
		}
		for _, x := range local.Exports {
			if x.Name == g.Name+"/"+v.Name {
				e.URIs = append(e.URIs, x.URIs...)
			}
		}
		waiting = waiting || (len(local.NBD) > 0 && len(e.URIs) == 0)
		found = append(found, e)
	}
	return found, waiting, err
}

// report says what was reached and lost, and where the targets are served.
func (p *promotion) report(ctx context.Context, g *api.Group) error {
	exports, err := p.exports(ctx, g)
	if p.asJSON {
		return errors.Join(printJSON(p.w, map[string]any{"group": g, "exports": exports}), err)
	}
	if _, werr := io.WriteString(p.w, reportText(g, exports)); werr != nil {
		return werr
	}
	return err
}

// reportText says what a promote came to.
func reportText(g *api.Group, exports []exported) string {
	text := fmt.Sprintf("group %s is promoted", g.Name)
	if o := g.Promote; o != nil {
		if o.Point != nil {
			text += fmt.Sprintf(" at set %d, %s", o.Point.Set, o.Point.Label.Local().Format("2006-01-02 15:04:05.000"))
		}
		if o.LostKnown {
			text += fmt.Sprintf("\nlost: %.1f s, %s, %d writes", o.LostSeconds, bytesText(o.LostBytes), o.LostUpdates)
		} else {
			text += fmt.Sprintf("\nlost: not known, a primary was not heard of; its last %.1f s are in doubt", o.LostSeconds)
		}
	}
	text += "\n"
	if g.Promote != nil && g.Promote.Doubted {
		text += "ACKNOWLEDGED WRITES MAY BE MISSING: components that held them together were lost\n"
	}
	if g.Promote != nil && g.Promote.Degraded != nil && g.Promote.Degraded.Phase != "asked" {
		text += fmt.Sprintf("ACKNOWLEDGED WRITES MAY BE MISSING: the group was degraded since %s\n", g.Promote.Degraded.Since.Local().Format("2006-01-02 15:04:05"))
	}
	if g.Torn {
		text += "NOT A RECOVERY POINT: a set was lost while it was being applied; check and repair what is on the targets before you use it\n"
	}
	for _, v := range g.Volumes {
		if v.Removed != nil {
			text += fmt.Sprintf("volume %s was taken out of the group before: it is not served\n", v.Name)
		} else if !v.Copied {
			text += fmt.Sprintf("NO WHOLE COPY: the target of volume %s is of no use\n", v.Name)
		}
	}
	for _, e := range exports {
		where := joinComma(e.URIs)
		if where == "" {
			where = "not served over NBD: see `flotilla events` there, and nbd in its file"
		}
		text += fmt.Sprintf("%s on %s: %s\n", e.Volume, e.Agent, where)
	}
	return text
}
