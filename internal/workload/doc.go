// Package workload writes to replicated volumes over NBD, remembers every write, and proves that a recovered volume is
// exactly what was written up to some moment. The demo and the tests of clusters of processes stand on it.
//
//	c := workload.NewClients(run)
//	c.Use(device)                          // a connection to each volume, in order
//	c.Start(ctx, volumes, failed)
//	…
//	c.Doom()                               // from now on writes may fail
//	c.Close()
//	prefixes, err := (&workload.Proof{Run: run}).Volume(ctx, volume, recovered)
//
// # What is written
//
// Each volume is an image (a file system, or bytes made up) with two areas behind it:
//
//	0                          image          writes          size
//	├── image, never written ───┼── writer ────┼── chain ──────┤
//
// An area belongs to one stream of updates: 1, 2, 3 …, each issued only when the one before was answered. The writer of a
// volume overwrites blocks of its area at random. The chain is one record after another, by turns on each volume, so it is
// several streams that depend on each other across the primaries. Every block of an update names the update, see block.
//
// # The proof
//
// A recovery point must be a prefix of everything, so for each stream there is exactly one k such that its area holds the
// image and updates 1 … k, byte for byte. The image must be as it was. Of the chain's two streams neither is ahead of the
// other by more than a record. And over all streams no update is there that was issued after the reply to one that is
// missing: that would be an effect without its cause.
package workload
