package backup

import (
	"time"

	"flotilla/agent/core"
)

// The states of a journal that fails. While one lasts Faults names it.
const (
	JournalLost     = "journal-lost"     // something of it is gone: the component asks to be declared lost
	JournalUnusable = "journal-unusable" // no journal can be made
)

// fault is why there is no journal.
type fault struct {
	name  string
	cause error
	since time.Duration // of the loop's clock
}

func (b *Backup) failedJournal(name string, cause error) {
	f := &fault{name: name, cause: cause}
	if b.loop != nil { // otherwise it is still being opened
		f.since = b.loop.Now()
	}
	if before := b.fault.Load(); before != nil {
		f.since = before.since
	}
	b.fault.Store(f)
}

// Faults returns what the journal fails at now.
func (b *Backup) Faults() []core.Fault {
	f := b.fault.Load()
	if f == nil {
		return nil
	}
	return []core.Fault{{Name: f.name, Text: b.opt.Dir + ": " + f.cause.Error(), For: b.loop.Now() - f.since}}
}
