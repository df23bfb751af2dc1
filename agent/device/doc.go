// Package device gives exports of this agent a block device on this host: /dev/nbdX, with a stable name below /dev/flotilla.
//
//	m, err := device.New(device.Options{Server: srv, File: "…/devices.json", Identity: "…"})
//	m.Start()                         // those that were attached before come back
//	m.Offer("db/data", export)        // by whoever adds an export
//	info, err := m.Attach(device.Spec{Volume: "db/data", Index: kernel.AnyIndex})
//	m.Close()                         // the devices stay, and their I/O waits
//
// A device is the kernel's, not the agent's: when the agent ends, in whatever way, the device stays and its I/O waits up to its
// dead-connection time-out. The next agent finds it by its identifier, "flotilla:<identity>:<group>/<volume>", and hands the
// kernel a new socket. What is attached stands in a file, written before Attach returns, so that it is attached again after a
// reboot, too. doc.go of package nbd/kernel says which rules of the kernel's driver this obeys.
//
// One goroutine for each device (attachment.run) serves its socket as long as there is an export, and gets a new one when the
// socket ends. Where Options.Keeper is there, a planned stop loses no request: the socket itself is handed to the next agent
// with the requests that wait in it.
package device
