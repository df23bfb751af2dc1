// Package peers carries what agents say to each other: messages of the protocol, frames of updates, Raft messages, and
// bulk writes to targets with their answers.
//
//	New → Start(ports) → SendMessage, SendFrame, SendRaft, CallApply … → Close
//
// # Connections
//
// Each agent dials those to whom it has something to say, on demand, and closes what is idle for long. A connection is of
// one kind and carries payload one way, from the agent that dialed; so two agents that talk to each other have a
// connection of a kind in each direction, and no kind waits for another:
//
//	kind     ALPN, hello role         carries                       back
//	control  flotilla-control, 2      core messages                 -
//	data     flotilla-data, 1         frames                        -
//	raft     flotilla-raft, 2         Raft messages                 -
//	apply    flotilla-data, 3         apply requests                apply answers
//
// Where a peer has several addresses, on networks of their own, the first that Resolve names is used while it answers, and
// the next ones while it does not, see path.go.
//
// Both ends of each connection send a beat when they have been silent for Limits.Beat. Who hears nothing for Limits.Silence
// closes the connection, so a dead peer and a dead link are noticed within that time. A peer that lives but does not read is
// given Limits.Stall.
//
// The stages of what is sent are: Send… puts it into the queue of its link (any goroutine, never blocks); the link's
// goroutine dials, takes what is queued and writes it in few system calls. When that fails, everything queued is dropped, the
// core is told, and the link takes nothing until its back-off is over. So nothing here is ever repeated: that is the
// core's.
//
// What is received is handed on by the goroutine of its connection, in order; a callback that blocks holds up that
// connection and no other.
//
// # Messages
//
// On each connection hellos are exchanged, then come messages of package wire:
//
//	type  name      payload
//	1     frame     route and body, see wire
//	16    beat      none
//	17    message   core.EncodeMessage
//	18    raft      raftpb.Message in protobuf, ≤ MaxMessage
//	19    snapshot  the same of type MsgSnap, ≤ MaxSnapshot
//	20    apply     call number u64, then an apply.Request
//	21    answer    call number u64, ok u8, then text, ≤ maxAnswerText
//
// # Who is believed
//
// A peer is who its certificate says, and its hello must say the same, in the same cluster and the same generation of it. Messages are handed on under
// that name; a Raft message that names another sender, another receiver, or is of a kind that never travels is refused and
// counted. Bytes that no agent of this release sends end the connection.
//
// Lock order: Peers.mu, then link.mu. No lock is held during a callback, a system call or a release.
package peers
