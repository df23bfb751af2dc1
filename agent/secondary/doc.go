// Package secondary is the shell of an agent's secondary role: it opens the target devices of the volumes that the
// replicated state assigns to this agent, writes what components ask for and the node allows, and serves the targets of
// promoted groups.
//
//	s, err := secondary.New(secondary.Options{...})
//	l := loop.New(node, loop.Sinks{Wake: s.Wake, ...})
//	err = s.Start(l)
//	...                 // s.OnApply for every request that arrives
//	err = s.Close()
//
// # Which targets
//
// The follower, one goroutine, looks at the replicated state when the loop wakes it and by the clock. It opens what is
// assigned and not open, exclusively; what can not be opened (missing, too small, in use, another volume's) is an event and
// an error in the status, and is tried again. What is assigned no more is closed.
//
// # The record
//
// A small file for each volume says durably what stands on its target, for a person who finds the machine alone, and
// so that no target is taken for another's:
//
//	claimed       nothing was written yet
//	copying       the first copy is under way: inconsistent
//	applying      consistent at the end of set Applied, but sets up to Run may be written in part
//	consistent    exactly the end of set Applied
//	torn          a set was lost while it was written: inconsistent until a resync is whole
//	promoted      served and written by its users
//
// It is written before the first write that it speaks of. The truth about applied sets is in the replicated state; the
// record follows it and never runs ahead.
//
// # A write
//
//  1. OnApply asks the node whether this member may write this set in this view, and waits while writes of another one
//     are under way, or while this agent's state is behind the component's.
//  2. The record says that the run is being written, if it does not yet.
//  3. The pieces are written; they are disjoint from everybody else's.
//  4. A flush makes the volume durable, but only if it covers all the writes that the component was answered: what was
//     written before the device was opened anew may be gone (apply.ErrUnwritten). Flushes that come together are one; the
//     device sees to that.
//
// # Serving
//
// A target is neither readable nor writable through NBD until its group is promoted and no write to it is under way;
// then it is offered as "group/volume". The node refuses every apply to a promoted group.
package secondary
