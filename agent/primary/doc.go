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
//	bitfile.go    the file of bits: format, torn and rotten sectors
//	activity.go   the activity log and bitmap of one volume: core.Extents made durable, group commit
//	volume.go     one source volume and its NBD requests
//	write.go      the write path
//	inline.go     small requests, done at once
//	split.go      a request as updates that respect portions and limits
//	group.go      the volumes that are cut together; what the node says of them; the waits for it
//	held.go       requests that wait to be held (sync)
//	overload.go   pace, then suspend
//	follow.go     opens and closes volumes as the cluster state wants them
//	watch.go      looks at the node when it is woken and tells everybody
//	copy.go       first copies and resyncs
//	sender.go     frames to the components
//	status.go     what the API shows
//
// # Locks
//
// Ranges of a volume: volume.unheld, then volume.io. Mutexes, each only for moments and never across a call of the loop,
// a device or a file: Primary.mu, then group.mu, then activity.mu. The loop's lock is taken with none of them held, but
// inside a call of the loop group.mu and activity.mu may be taken. So nobody who holds one of these calls the loop.
//
// # Goroutines
//
// The watcher, the follower and one sender for each component belong to the Primary, a copier to each group, a cleaner to
// each volume. Each ends by its owner's stop and is waited for by Close, or by whoever closes the group or volume.
package primary
