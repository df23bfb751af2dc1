// Package demo shows Flotilla at work on one machine, without privileges, and proves what it shows.
//
//	figures, err := demo.Run(ctx, demo.Options{Program: "/usr/bin/flotilla", Out: os.Stdout})
//
// It starts real agents as processes of Program on the loopback: two primaries, any number of backup components, one
// secondary. Its clients write over NBD to one volume on each primary and remember every write. It kills a component in
// the middle, then both primaries, promotes the secondary, and compares what that serves with what it remembers.
//
// What is written, and what is proven of it, package workload says.
//
// # What it leaves behind
//
// Nothing: children die with their parent (PDEATHSIG), and the directory of the run is removed however Run ends, unless
// it is asked to keep it.
package demo
