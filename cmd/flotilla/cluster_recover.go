package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"flotilla/agent"

	"github.com/spf13/cobra"
)

func clusterRecoverCommand() *cobra.Command {
	var config string
	var o agent.RecoverOptions
	var asJSON bool
	c := &cobra.Command{
		Use:   "recover --survivors NAME,…",
		Short: "Go on without a majority that is gone for good: a new generation of the cluster",
		Long: "Go on without a majority of the voters that is gone for good. What is left becomes a new generation of the cluster;\n" +
			"agents that are not named are left behind: should they come back they are refused, and end. Writes that were acknowledged\n" +
			"by the old generation may be missing (sync), and agents of it that are only out of sight may go on among themselves:\n" +
			"the promises hold within the new generation only. So name all that are left, and be sure of the others.\n\n" +
			"Stop the agents of all survivors first: this changes the state directory of one that does not run. Run it on each survivor:\n" +
			"it promises the generation and prints its position. Then run it on one of them with the positions of all others; if another\n" +
			"is newer it says which. A single survivor needs one call. Then start the agents; promote if the primaries are gone.",
		Example: "  flotilla cluster recover --survivors host-c --plan\n  flotilla cluster recover --survivors host-c\n" +
			"  flotilla cluster recover --survivors host-c,host-d --position flotilla-position-v1.AbC…",
		Args: arguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(o.Survivors) == 0 && !o.Undo {
				return &usageError{errors.New("--survivors: name all agents that are left, with commas between them")}
			}
			if o.Undo && (len(o.Survivors) > 0 || len(o.Positions) > 0 || o.Plan) {
				return &usageError{errors.New("--undo is given alone")}
			}
			cfg, err := agent.LoadConfig(config)
			if err != nil {
				return err
			}
			r, err := agent.Recover(cfg, o, time.Now())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), recoveryText(r, &o))
			return err
		},
	}
	configFlag(c, &config)
	c.Flags().StringSliceVar(&o.Survivors, "survivors", nil, "names of all agents that are left")
	c.Flags().StringArrayVar(&o.Positions, "position", nil, "what this command printed on another survivor; once for each of them")
	c.Flags().Uint64Var(&o.Generation, "generation", 0, "promise at least this one: when another survivor says so")
	c.Flags().BoolVar(&o.Plan, "plan", false, "only say what would happen")
	c.Flags().BoolVar(&o.Undo, "undo", false, "take back a promise of a generation that was not begun")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// recoveryText says what a recover came to, and what is next.
func recoveryText(r *agent.Recovery, o *agent.RecoverOptions) string {
	if o.Undo {
		return fmt.Sprintf("%s is of generation %d as before, and talks to those who are\n", r.Agent, r.Generation)
	}
	orNone := func(names []string) string {
		if len(names) == 0 {
			return "none"
		}
		return strings.Join(names, ", ")
	}
	text := fmt.Sprintf("generation %d: %s; left behind: %s\n", r.Generation, strings.Join(o.Survivors, ", "), orNone(r.Behind))
	text += fmt.Sprintf("components: %s; declared lost: %s\n", orNone(r.Components), orNone(r.Lost))
	if len(r.Components) == 0 {
		text += "NO COMPONENT IS LEFT: what was not applied to the targets is given up\n"
	}
	text += "writes that were acknowledged in sync groups may be missing: a promote of them wants --force\n"
	switch {
	case r.Done:
		return text + fmt.Sprintf("%s has begun it, in view %d\nnext: start the agents of all survivors, this one first; then look at `flotilla status`\n", r.Agent, r.View)
	case len(r.Missing) > 0 && o.Plan:
		return text + fmt.Sprintf("nothing was changed; the positions of %s would be needed\n", strings.Join(r.Missing, ", "))
	case o.Plan:
		return text + "nothing was changed\n"
	}
	return text + fmt.Sprintf("%s is ready for it, and talks to nobody of an older one; `flotilla cluster recover --undo` takes that back\nposition: %s\n"+
		"next: run this on %s, too; then on one of them with --position for each other\n", r.Agent, r.Position, strings.Join(r.Missing, " and "))
}
