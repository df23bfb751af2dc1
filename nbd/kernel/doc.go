// Package kernel gives an NBD export a block device of its own: it attaches the kernel's NBD client to sockets whose other
// ends an [flotilla/nbd.Server] serves, without any handshake.
//
//	k, err := kernel.Open(kernel.Options{}) // loads the module where it is missing
//	ours, theirs, err := kernel.SocketPair()
//	index, err := k.Connect(kernel.Config{Index: kernel.AnyIndex, Size: size, BlockSize: 512, Identifier: id}, theirs)
//	theirs.Close()                          // the kernel holds it now
//	srv.ServeResumable(ctx, ours, export)
//
// The kernel's side is the generic-netlink family "nbd" (include/uapi/linux/nbd-netlink.h, drivers/block/nbd.c). What of a
// device is found in sysfs is read by [Sysfs], whose root can be another directory.
//
// # A device outlives its server
//
// When its socket ends, a device stays and its I/O waits, up to Config.DeadTimeout; then it fails. [Kernel.Reconfigure]
// hands over a new socket. Three facts about the driver decide how that is done:
//
//   - A socket that is not dead yet is not replaced, and nobody says so. [Taken] tells by the pair's own end.
//   - A request that was sent on the old socket is sent again when it has been out for Config.Timeout, not before. With a
//     single socket and without a time-out it would wait for ever if no server comes back, so a time-out is always set.
//   - With several sockets that happens while the server of the first still works on the request, and the two can end in
//     the wrong order. A device that is to survive its server therefore has one socket; with one, the driver sends nothing
//     before the new socket is there, which is handed over when the old one's requests have ended.
package kernel
