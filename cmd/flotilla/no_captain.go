package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"flotilla/agent/api"
)

// askTime bounds the wait for one agent that may be dead.
const askTime = 2 * time.Second

// explainNoCaptain adds to an error for want of a captain who does not answer, and what is to be done if that is for good.
func explainNoCaptain(ctx context.Context, client *api.Client, err error) error {
	if api.CodeOf(err) != api.Unavailable {
		return err
	}
	status, serr := client.Status(ctx)
	if serr != nil || status.Complete {
		return err
	}
	left := []string{status.Answered}
	var gone []string
	voters, votersLeft := 0, 0
	for _, a := range status.Agents {
		here := a.Name == status.Answered
		if !here && !a.LeftBehind {
			ctx, cancel := context.WithTimeout(ctx, askTime)
			_, lerr := client.Local(ctx, a.Name)
			cancel()
			if here = lerr == nil; here {
				left = append(left, a.Name)
			}
		}
		if a.Voter {
			voters++
			if here {
				votersLeft++
			} else {
				gone = append(gone, a.Name)
			}
		}
	}
	if 2*votersLeft > voters {
		return err // they will elect one
	}
	slices.Sort(left)
	return &api.Error{Code: api.Unavailable, Text: fmt.Sprintf("%v\n"+
		"of the agents that vote, %s do not answer: start them, or mend the network. Only if they are gone for good, stop the agents of all that are left, and then:\n"+
		"  flotilla cluster recover --survivors %s\n"+
		"It makes a new generation of the cluster without the others; then promote again (docs/runbook.md, \"No captain, or the majority is gone\")",
		err, strings.Join(gone, ", "), strings.Join(left, ","))}
}
