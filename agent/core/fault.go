package core

import (
	"strings"
	"time"

	"flotilla/wire"
)

// Fault is a disk that fails at an agent, or a part of it. Nothing is decided by it: it is for the status.
type Fault struct {
	Name   string        // of the state, such as "source-unreadable"
	Group  wire.GroupID  `cbor:",omitempty"` // 0 for a journal
	Volume wire.VolumeID `cbor:",omitempty"`
	Text   string        // what fails, and how
	For    time.Duration // how long it has been so
}

// The bounds of what an agent tells.
const (
	maxFaults    = 64
	maxFaultText = 400 // bytes
)

// SetFaults tells the node what the agent's disks fail at now; its next words to the captain carry it. What is beyond 64
// faults, or 400 bytes of one's text, is left off. A text is made valid UTF-8: it may name any path.
func (n *Node) SetFaults(faults []Fault) {
	n.faults = nil // those that were sent stay as they are
	for _, f := range faults[:min(len(faults), maxFaults)] {
		n.faults = append(n.faults, f.told())
	}
}

// told returns the fault as it is sent. Whoever decodes a text that is no UTF-8 refuses all of the message.
func (f Fault) told() Fault {
	end := ""
	if len(f.Text) > maxFaultText {
		f.Text, end = f.Text[:maxFaultText], " …"
	}
	f.Text = strings.ToValidUTF8(f.Text, "") + end
	return f
}
