package core

import "flotilla/agent/core/cluster"

// HandOver has another voter become captain, one that the captain hears. It returns false on an agent that is not captain,
// and where nobody else can be. It may come to nothing: whoever needs it looks at Captain, and asks again.
func (n *Node) HandOver() bool {
	c := n.captain
	if c == nil {
		return false
	}
	for _, id := range n.Voters() {
		if a := n.state.Agents[id]; id != n.cfg.ID && a != nil && c.hears(id, n.cfg.LossAfter) {
			n.control.raft.TransferLeader(uint64(id))
			n.event(0, "captain.hands-over", "to", id)
			return true
		}
	}
	return false
}

// Try returns what a command would come to if it were applied now. It changes nothing.
func (n *Node) Try(cmd cluster.Command) error {
	st, err := cluster.Decode(n.state.Encode())
	if err == nil {
		_, err = st.Apply(n.control.applied<<8, &cmd)
	}
	return err
}
