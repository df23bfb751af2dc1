// Package nbd serves block devices over the NBD protocol.
//
// A [Server] has exports, each a device under a name, and serves them on any
// number of listeners:
//
//	srv, err := nbd.New(nbd.Options{Logger: log})
//	err = srv.AddExport("disk", export)
//	err = srv.Serve(ctx, listener) // until ctx ends and all is answered
//
// An [Export] takes requests and completes them when it likes: Request.Done
// may come from any goroutine and in any order, so a write that waits for a
// remote acknowledgement costs no goroutine. A device with ordinary blocking
// methods becomes an export by [NewDeviceExport]. The data of requests live in
// reference-counted buffers that an export may keep; see [Buffer] for who owns
// what.
//
// # The way of a request
//
//  1. input reads many requests with one system call, the data of large ones
//     straight into their buffer. (one goroutine a connection)
//  2. check refuses what the protocol or the export does not allow.
//  3. admit waits for room: requests in flight, bytes of the connection, bytes
//     of the server. Before it waits, gathered replies are sent.
//  4. Export.Try starts it on the spot; if that would block, a worker calls
//     Export.Serve. (up to Limits.Workers goroutines a connection)
//  5. Request.Done queues the reply. (any goroutine; never blocks)
//  6. flush sends all queued replies with one system call: the reader when
//     its input has run dry, a worker after its request, or the writer for
//     requests completed elsewhere. (one at a time)
//  7. Then the request's room is free again.
//
// # What is spoken
//
// The fixed newstyle handshake with EXPORT_NAME, ABORT, LIST, INFO, GO,
// STRUCTURED_REPLY, LIST_META_CONTEXT and SET_META_CONTEXT; READ, WRITE,
// FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS (base:allocation) and DISC,
// with simple or structured replies; several connections to one export when it
// has CanMultiConn and CanFlush. There is no TLS: STARTTLS is answered with
// ERR_UNSUP. The source is doc/proto.md of the NetworkBlockDevice/nbd project.
package nbd
