package core

import (
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
// faults, or 400 bytes of one's text, is left off.
func (n *Node) SetFaults(faults []Fault) {
	n.faults = nil // those that were sent stay as they are
	for _, f := range faults[:min(len(faults), maxFaults)] {
		if len(f.Text) > maxFaultText {
			f.Text = f.Text[:maxFaultText] + " …"
		}
		n.faults = append(n.faults, f)
	}
}
