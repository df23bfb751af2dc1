// Package vmtest tests what needs a kernel of its own: volumes attached as /dev/nbdX, with file systems and a database on them.
//
// `make test-vm` boots User Mode Linux once for each scenario, as an ordinary process whose root is this machine's. Inside,
// program guest runs one scenario as root, against agents that are processes there, and writes its verdict to a file. What the
// kernel and the agents say goes to files beside it, the ends of which are shown when a scenario fails.
package vmtest
