// Package primary is the shell of an agent's primary role: it serves source volumes, remembers durably where they may
// differ from their targets, sends what is written to the components, and copies what a crash or a pause left behind.
//
// The decisions (numbering, sets, what is held) are core's. A [Primary] is given the node's loop late, because each needs
// the other:
//
//	p, err := primary.New(primary.Options{Dir: dir, Sender: peers, Exporter: nbdServer})
//	sinks.Release, sinks.Wake = p.Release, p.Wake
//	l := loop.New(node, sinks)
//	p.Start(l)
//	…
//	p.Close()
//
// Start with write.go, which opens with the way of a write through the whole package. Then:
//
//	bitformat.go  the bits on disk: format, torn and rotten sectors, see below
//	bitfile.go    the bits of one volume, in the state directory (statefile.go) or at the end of the device (deviceend.go)
//	keptformat.go what of a resync need not be copied again, on disk, see below; keptfile.go of one volume
//	activity.go   the activity log and bitmap of one volume: core.Extents made durable, group commit
//	volume.go     one source volume and its NBD requests
//	write.go      the write path
//	inline.go     small requests, done at once
//	split.go      a request as updates that respect portions and limits
//	group.go      the volumes that are cut together; what the node says of them; the waits for it
//	held.go       requests that wait to be held (sync)
//	overload.go   pace, then spill, then suspend; when the queue will be full (growth.go)
//	spill.go      what waits to be sent, out of memory and back; the files that it lies in (spool.go)
//	resize.go     volumes that grow
//	follow.go     opens and closes volumes as the cluster state wants them
//	watch.go      looks at the node when it is woken and tells everybody
//	copy.go       first copies and resyncs; what of a source can not be read for them (unreadable.go); targets that were
//	              replaced (recopy.go)
//	sender.go     frames to the components
//	status.go     what the API shows; what sources and spools fail at (fault.go)
//
// # The bits on disk
//
// There is one bit for each extent, set while the durable source and the target may differ there; after a crash these are
// what is copied. They consist of sectors of 512 bytes, because that is what a disk writes whole or not at all. The first one
// says what they are for:
//
//	0        8         12       16     24       32     40           104       508     512
//	| magic  | version | volume | size | extent | copy | cluster ID | zero    | CRC32C |
//	| 8 bytes| u32: 3  | u32    | u64  | u64    | u64  | 64 bytes   |         | u32    |
//
// Every other one holds the bits of 3968 extents, lowest bit first, those behind the end zero. Its key is the checksum of the
// header, so that no sector counts under another one:
//
//	0        4       8        12                               508     512
//	| magic  | index | key    | bits, 496 bytes                | CRC32C |
//	| u32    | u32   | u32    |                                | u32    |
//
// Numbers are little-endian; a CRC32C covers the bytes before it. A sector is written in place. It needs no second copy:
// a sector that is torn, rotten, missing or another's reads as all bits set, so that more is copied than need be and
// never less; and the old and the new content of a sector both have every bit that was ever reported durable and not
// cleared since. A header that does not fit the volume makes all bits set. Version 2, which is still read, is the same, by an
// agent that knew nothing of what is kept; version 1, too, had neither copy nor cluster, and the volume's number for a key.
//
// They lie in a file of the state directory, or, where the volume was created so, at the end of its own device: in the last
// bytes of it, rounded up to 4096 and aligned to 4096, behind the bytes that are served:
//
//	0                              size          aligned                              device's size
//	| what the volume serves       | not used    | header | sectors     | zero        | not used |
//
// The end of a device is only taken for that when it is all zero or has a sector with a right magic and checksum.
//
// # What is kept, on disk
//
// While a resync is not whole its bits stay set. What it has copied, so that a later incarnation need not copy it again
// (core.Extents), stands beside the bits, in a file of its own of the state directory: one bit for each extent, in sectors of
// 3840 extents, with the incarnation and the set for which all of them are kept:
//
//	0        4       8       12            20       28                      508     512
//	| magic  | index | key   | incarnation | set    | kept, 480 bytes       | CRC32C |
//	| u32    | u32   | u32   | u64         | u64    |                       | u32    |
//
// The key is that of the bits. A sector that is torn, rotten, missing or another's keeps nothing, nor does the file beside
// bits of which a sector or the header is damaged or of an older version. An extent is kept on disk only while its source
// is not written: before a write it is taken away durably, with the bits' write. So the file may be lost or removed at any
// time while the agent is stopped, and must not be put back.
//
// # Locks
//
// Ranges of a volume: volume.unheld, then volume.io. Mutexes, each only for moments and never across a call of the loop,
// a device or a file: Primary.mu, then group.mu, then activity.mu or spool.mu. The loop's lock is taken with none of them held, but
// inside a call of the loop, or while it hands out what is to be released, group.mu, activity.mu and spool.mu may be taken. So
// nobody who holds one of these calls the loop.
//
// # Goroutines
//
// The watcher, the follower and one sender for each component belong to the Primary, a copier, a checker and a spiller to each group,
// a cleaner and a grower to each volume. Each ends by its owner's stop and is waited for by Close, or by whoever closes the group or volume.
package primary
