//go:build linux

// Package loop attaches loop devices of the kernel to regular files, by ioctl, and finds those that are attached.
//
//	d, err := loop.Attach("/srv/data.img", loop.Options{Exclusive: true})
//	if err != nil {
//		return err
//	}
//	defer d.Close()
//	fmt.Println(d.Path()) // /dev/loop3
//
// # Nothing is left behind
//
// A device is attached with the autoclear flag, and a Device holds it open: the kernel detaches it with the last
// descriptor, so also when the process is killed. If somebody else has it open by then, it stays until they close it.
// Attach finds such a device again, by the file below it and by the mark that it carries as its name, and takes it
// instead of putting a second one on the file: two loop devices on one file do not see each other's writes.
//
// # What the kernel must have
//
// Loop devices and /dev/loop-control (Linux 3.1). LOOP_CONFIGURE (5.8) attaches and configures in one step; where it is
// missing, which the kernel is asked, LOOP_SET_FD and LOOP_SET_STATUS64 do it in two. Direct I/O to the file below is
// turned on where the file system has it.
package loop
