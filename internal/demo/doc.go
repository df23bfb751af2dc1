// Package demo shows Flotilla at work on one machine, without privileges, and proves what it shows.
//
//	figures, err := demo.Run(ctx, demo.Options{Program: "/usr/bin/flotilla", Out: os.Stdout})
//
// It starts real agents as processes of Program on the loopback: two primaries, any number of backup components, one
// secondary. Its clients write over NBD to one volume on each primary and remember every write. It kills a component in
// the middle, then both primaries, promotes the secondary, and compares what that serves with what it remembers.
//
// # What is written
//
// Each volume is an image (a file system, or bytes made up) with two areas behind it:
//
//	0                          image          writes          size
//	├── image, never written ───┼── writer ────┼── chain ──────┤
//
// An area belongs to one stream of updates: 1, 2, 3 …, each issued only when the one before was answered. The writer of a
// volume overwrites blocks of its area at random. The chain is one record after another, by turns on the first and on the
// second volume, so it is two streams that depend on each other across the primaries. Every block of an update names the
// update, see block.
//
// # The proof
//
// A recovery point must be a prefix of everything, so for each stream there is exactly one k such that its area holds the
// image and updates 1 … k, byte for byte. The image must be as it was. Of the chain's two streams neither is ahead of the
// other by more than a record. And over all streams no update is there that was issued after the reply to one that is
// missing: that would be an effect without its cause.
//
// # What it leaves behind
//
// Nothing: children die with their parent (PDEATHSIG), and the directory of the run is removed however Run ends, unless
// it is asked to keep it.
package demo
