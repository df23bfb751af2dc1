// Package wire holds what agents say to each other, and the words they say it in: the domain's numbers, updates, frames,
// compression, checksums, hellos, and typed messages on a stream. It knows nothing of who uses it.
//
// From the inside out:
//
//	Update    one change inside one portion, with the checksum its primary sealed it with (update.go)
//	Body      many updates of one (group, incarnation, set), their data compressed as a whole (body.go)
//	Route     where a body goes in which view; changes at every hop (frame.go)
//	Message   a typed, bounded piece of a connection: a frame is Route + Body; Ack and Nack answer it (message.go)
//	Hello     the first bytes of each direction: versions, cluster, agent, features (hello.go)
//	Conn      messages on a stream, many in one system call (conn.go)
//
// A primary seals updates, encodes them with its Encoder and sends the frame. A component parses the body, which shows it
// every update's header without decompressing anything, journals Body.Raw and forwards it under another Route. Whoever
// applies decompresses and verifies. When a copy is lost, Select makes a body of only those updates that need another one.
//
// What protects what: the CRCs of a body find damage on the way and on disk, before anything is decompressed; the sum of
// an update goes from the primary to the target and finds what went wrong between those CRCs. Neither is a
// defence against forgery: that is TLS, see package identity.
//
// Every number in these formats is little-endian or a LEB128 varint. All decoders bound what they allocate by the limits
// named here and return errors that wrap ErrCorrupt, ErrUnsupported or ErrMessage.
package wire
