// Package nettest puts real agents on real networks, breaks these, and proves what is recovered. Run it as root:
//
//	make test-net                 # or: go test -tags nettest -v ./internal/nettest -run 'TestNetworks/captain'
//
// # The networks
//
// Each agent is a process in a network namespace of its own (package fleet). They are joined by one bridge for the main network
// and, where components have their own, another for that. Nothing is added to the network of the machine.
//
//	hub:       br0 ── link0-1 ─ link0-2 ─ …      br1 ── link1-1 ─ link1-2 ─ …
//	                     │         │                       │         │
//	agents:            eth0      eth0                    eth1      eth1          10.77.0.x and 10.78.0.x
//
// A link goes down at the hub, so that the agent sees a dead cable. A cut of one way between two agents is an nft rule
// that drops what one receives from the other. A slow link has a token bucket (tbf) at both of its ends.
//
// # The scenarios
//
// Clients write to two volumes, of one primary or of two, as in the demo (package workload). Then a fault comes and goes; while it lasts
// no write may fail, and where it says so sets must be committed again in time. At the end everything is promoted and
// compared byte for byte: all that was written where the clients had stopped before, else a prefix of it.
//
// # What it leaves behind
//
// Nothing, also when it fails or is interrupted: agents die with the test (PDEATHSIG), namespaces have no name and go with
// those who are in them, directories are named after the test's process, and each run removes those of runs that were killed.
// FLOTILLA_KEEP=1 keeps the directory, with the agents' logs.
package nettest
