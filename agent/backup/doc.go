// Package backup is the shell of a backup component: it stores the frames that the node takes, mirrors them, sends parts
// of them again after a loss, and writes committed sets to the targets. What to do the node decides (package core); this
// package does it and reports back.
//
//	b, err := backup.New(backup.Options{...})
//	err = b.Open(node)          // replays the journal into the node
//	l := loop.New(node, loop.Sinks{Store: b.Store, Free: b.Free, Wipe: b.Wipe, Frames: b.Frames,
//		Remirror: b.Remirror, Apply: b.Apply, ...})
//	b.Start(l)
//	...                         // b.OnFrame for every frame that arrives
//	err = b.Close()
//
// # The way of a frame
//
//  1. OnFrame checks the body's CRCs, unpacks marks, and hands the headers to the node. It blocks while too much waits
//     for the disk. (concurrent: one call per connection)
//  2. The sinks Store and Frames, called by the loop inside that call, queue the body for the journal and give it to the
//     transport for the mirror. They never block.
//  3. The keeper, one goroutine, appends to the journal in order; the journal's group commit makes it durable.
//  4. The notifier, one goroutine, tells the node in batches what came of it.
//
// # Who owns a payload
//
// The raw bytes of a received frame belong to this package from OnFrame until it calls release, once. They are held by
// OnFrame itself while it runs, by the keeper until Append has copied them, and by the transport until the mirror's copy
// was written or dropped. The node keeps headers only: the data of a mark is copied out of the raw bytes.
//
// What is held for the disk counts against Options.IntakeBytes, and OnFrame waits for room. What only a mirror still needs
// counts against Options.MirrorBytes, and beyond it is not sent: the node is told that the mirror refused, and
// sends it again out of the journal. So intake waits for nothing but the local disk, and two components that mirror to
// each other cannot stand still for want of each other's reading.
//
// # Which life a journal belongs to
//
// A component that was declared lost comes back only as new, with another life (see cluster.Agent). The file "identity"
// beside the journal's segments names the agent, its cluster and the life that the segments belong to, and is durable
// before the first record of that life. At the start:
//
//	identity              node's life   meaning
//	names the same life   L             the journal is replayed
//	names another life    any           what the segments hold was given up: they are removed
//	missing, or "lost"    L             nobody knows what is missing: the component declares itself lost
//	missing               0             a new component
//
// A component that declares itself lost says nothing of what it holds and takes nothing until the cluster has ended its
// life (core.Node.SetJournalLost); it never tells a shorter truth.
//
// # Memory
//
// IntakeBytes, MirrorBytes, twice the journal's MaxPending, and for each apply worker two windows of ApplyWindow or one
// frame's payload each, and one frame packed and unpacked. With the defaults and frames of 1 MiB that is below 200 MiB.
package backup
