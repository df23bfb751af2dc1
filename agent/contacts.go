package agent

import (
	"sync"

	"flotilla/wire"
)

// contacts are where agents say, as they connect, that they are reached. Who was away while one joined does not find it in its state; if
// that one became captain, the state only comes once its messages are answered.
type contacts struct {
	mu        sync.Mutex
	addresses map[wire.AgentID]string // at most maxContacts
}

const maxContacts = 4096

// heard remembers an agent's word. Its certificate was checked; whoever is dialed there has to show the same.
func (c *contacts) heard(id wire.AgentID, address string) {
	if checkAddress(address) != "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.addresses == nil || len(c.addresses) >= maxContacts {
		c.addresses = map[wire.AgentID]string{}
	}
	c.addresses[id] = address
}

// of returns where an agent is reached, as it said last, or "".
func (c *contacts) of(id wire.AgentID) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addresses[id]
}
