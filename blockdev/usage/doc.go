//go:build linux

// Package usage says what a file or block device is used for: by whom, and what lies on it.
//
// Of looks at mounts, swap, what the kernel has built on a device (LVM, encryption, RAID), the partitions of a disk and the
// disk of a partition, and loop devices on a file. Who claims a device does so first, by O_EXCL or a lock, and calls Of then:
// what comes after that claim the kernel refuses, or finds locked. For block devices the kernel refuses the claim itself in
// most of these cases; Of says why.
//
// Signatures recognizes what a device holds by the magic numbers at its known places, as blkid does. It is there to keep data
// from being overwritten by mistake: what has no signature, such as the raw disk of a database, it does not see. The table
// is small on purpose, and its own: what is asked for is a name, for which a library of all details would be much to carry.
package usage
