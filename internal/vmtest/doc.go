// Package vmtest tests what needs a kernel of its own: volumes attached as /dev/nbdX, with file systems and databases on them,
// and disks that lose power.
//
// `make test-vm` boots User Mode Linux as an ordinary process whose root is this machine's, two at a time; `make test-vm-qemu`
// boots Debian's own kernel in qemu, with the same root by virtiofs. Inside, program guest runs one scenario after the other as root,
// against agents that are processes there, and writes its verdict to a file. What the kernel and the agents say goes to files
// beside it, the ends of which are shown when a scenario fails.
//
//	vm_test.go      which scenarios run in which boots
//	boot_test.go    one boot: its files, its life and its end
//	guest           the scenarios
//
// Package vm boots.
package vmtest
