package demo

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// Figures are what a run came to. Times are in seconds, sizes in bytes.
type Figures struct {
	Components int     `json:"components"`
	Agents     int     `json:"agents"`
	Seconds    float64 `json:"seconds"` // of the whole run

	CopyBytes   int64   `json:"copy_bytes"`
	CopySeconds float64 `json:"copy_seconds"`

	// What clients wrote until the disaster, and what the primaries sent to the components for it and for the copy,
	// compressed and above TLS.
	Updates       int64 `json:"updates_acknowledged"`
	WrittenBytes  int64 `json:"written_bytes"`
	SentBytes     int64 `json:"sent_bytes"`
	SetsCommitted int64 `json:"sets_committed"`
	FailedWrites  int   `json:"failed_writes"`

	RPOMedian float64 `json:"rpo_median_seconds"` // before the disaster
	RPOWorst  float64 `json:"rpo_worst_seconds"`

	Killed         string  `json:"killed_component"`
	KilledShare    float64 `json:"killed_share_percent"`
	Takeover       float64 `json:"takeover_seconds"` // from SIGKILL until everything was held as before, and a new set committed
	Degraded       bool    `json:"degraded_after"`   // with a single component there is a single copy
	SlowestInKill  float64 `json:"slowest_write_in_takeover_seconds"`
	PromoteSeconds float64 `json:"promote_seconds"` // from asking for it until the volumes were served, plan included

	Set         uint64  `json:"recovered_set"`
	CutAge      float64 `json:"cut_age_seconds"` // at the disaster, by the captain's label
	LostUpdates int64   `json:"lost_updates"`    // acknowledged ones, by what the demo remembers
	LostBytes   int64   `json:"lost_bytes"`
	LostSeconds float64 `json:"lost_seconds"` // from the first lost update to the disaster

	Streams     []StreamFigures `json:"streams"`
	ChainRecord uint64          `json:"chain_record"` // the newest recovered one
	Compared    int64           `json:"compared_bytes"`
	Verdict     string          `json:"verdict"` // "proven", or what differs
}

// StreamFigures are how far a stream was recovered.
type StreamFigures struct {
	Name      string `json:"name"`
	Recovered uint64 `json:"recovered"`
	Issued    uint64 `json:"issued"`
}

// proven is the verdict when nothing differs.
const proven = "proven"

func ofSeconds(s float64) string { return seconds(time.Duration(s * float64(time.Second))) }

// table writes the figures for people.
func (f *Figures) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "   %s\t%s\n", name, fmt.Sprintf(format, args...)) // to memory
	}
	ratio := 0.0
	if all := f.CopyBytes + f.WrittenBytes; all > 0 {
		ratio = 100 * float64(f.SentBytes) / float64(all)
	}
	row("first copy", "%s in %s", bytesText(f.CopyBytes), ofSeconds(f.CopySeconds))
	row("written by clients", "%d updates, %s; %d failed", f.Updates, bytesText(f.WrittenBytes), f.FailedWrites)
	row("sent by primaries", "%s (%.0f%% of copy and updates, compressed)", bytesText(f.SentBytes), ratio)
	row("sets committed", "%d", f.SetsCommitted)
	row("RPO while running", "median %s, worst %s", ofSeconds(f.RPOMedian), ofSeconds(f.RPOWorst))
	row("takeover", "%s after SIGKILL of %s; slowest write meanwhile %s", ofSeconds(f.Takeover), f.Killed, ofSeconds(f.SlowestInKill))
	row("promote", "%s until the volumes were served", ofSeconds(f.PromoteSeconds))
	row("recovered", "the cut after set %d, %s old when the primaries died", f.Set, ofSeconds(f.CutAge))
	row("lost with the primaries", "%d updates, %s, the last %s", f.LostUpdates, bytesText(f.LostBytes), ofSeconds(f.LostSeconds))
	row("compared", "%s, byte by byte: %s", bytesText(f.Compared), f.Verdict)
	row("whole demo", "%s", ofSeconds(f.Seconds))
	_ = w.Flush() // to memory
	return b.String()
}
