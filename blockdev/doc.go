// Package blockdev gives one interface, Device, to everything that can hold
// the blocks of a volume, and the small structures that belong to such blocks.
//
// Start with Open, which looks at a path and returns a Device for the regular
// file or the block device that it finds there, or with NewMemory:
//
//	dev, err := blockdev.Open("/dev/vdb", blockdev.Options{Exclusive: true})
//	if err != nil {
//		return err
//	}
//	defer dev.Close()
//	_, err = dev.WriteAt(data, 4096)
//
// # What a device promises
//
//   - Offsets and lengths are bytes and need no alignment. Where the storage
//     below wants whole sectors, the device reads, merges and writes them, and
//     a neighbour that is written at the same time is not harmed.
//   - A range that was trimmed reads as zeroes. Where the storage cannot both
//     free a range and promise zeroes for it, zeroes are written instead.
//   - What was written before a successful Flush survives a loss of power.
//     After a Flush that failed every later Flush fails too, because the kernel
//     forgets which pages it could not write.
//   - Calls may run concurrently. Where they overlap, one of them a write, either
//     may win, byte by byte; RangeLock is there for who needs an order.
//   - Buffers belong to the caller again when the call returns.
//
// # What else is here
//
// Extents tells data from holes so that a copy skips what was never written.
// RangeLock orders overlapping requests. Bitmap remembers which parts of a
// device differ from its copy. Package faulty wraps a device so that chosen
// calls fail, and package blockdevtest is the test suite that every Device,
// also one defined elsewhere, has to pass.
//
// The package is for Linux only. It asks the kernel what it can do instead of
// looking at its version. The newest things it makes use of are holes in block
// devices (Linux 4.9) and the alignment of direct I/O from statx (6.1); without
// them it writes zeroes and aligns to 4096 bytes, or to sectors of the device.
package blockdev
