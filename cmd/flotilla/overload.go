package main

import (
	"io"
	"slices"
	"time"

	"flotilla/agent/api"
)

func overloaded(g api.Group) bool {
	return slices.ContainsFunc(g.Primaries, func(p api.Source) bool { return p.Overload != nil })
}

// printOverload shows what primaries do about queues that are too long.
func printOverload(w io.Writer, groups []api.Group) error {
	rows := [][]string{{"OVERLOAD", "PRIMARY", "STEP", "DELAY", "QUEUED", "IN SPOOL", "OF", "FULL IN"}}
	for _, g := range groups {
		for _, p := range g.Primaries {
			o := p.Overload
			if o == nil {
				continue
			}
			delay := time.Duration(o.DelayMS * float64(time.Millisecond)).Round(100 * time.Microsecond)
			rows = append(rows, []string{
				g.Name, p.Agent, o.Step, delay.String(), bytesText(p.Queued), bytesText(o.Spooled), bytesText(o.Spool), secondsText(o.FullSeconds),
			})
		}
	}
	return table(w, rows)
}
