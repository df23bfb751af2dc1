package core

import "flotilla/agent/core/cluster"

// SetJournalLost tells the node that what this component's journal held is not known any more, or that an empty journal
// has taken its place. While it is lost the component takes no frames and says nothing of what it holds: a list shorter
// than the true one could cut off what others believe held here (P2, P4). It asks to be declared lost, and does not ask
// to be admitted again. The shell may call it with false only when the life that lost the journal is over.
func (n *Node) SetJournalLost(lost bool) {
	n.comp.lost = lost
	n.comp.loseAt = 0
}

// proposeLoss asks for the end of a life whose journal is lost.
func (c *component) proposeLoss() {
	st := c.n.state
	if !c.lost || c.n.now < c.loseAt || !st.IsMember(c.n.cfg.ID) {
		return
	}
	c.loseAt = c.n.now + c.n.cfg.RetryEvery
	c.n.Propose(cluster.Command{Lose: &cluster.Lose{Agent: c.n.cfg.ID, View: st.View}})
}
