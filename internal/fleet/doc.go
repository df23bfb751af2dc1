// Package fleet runs the agents of a cluster as real processes of this machine, for what shows, tests or measures them.
//
//	f := fleet.New("/usr/bin/flotilla", dir, fail)
//	defer f.Close()
//	host, err := f.Add(fleet.Member{Name: "component1", Roles: "backup"})
//	err = f.Assemble(ctx, func(h *fleet.Host) {}) // the first host founds the cluster, the others join it
//	err = host.Kill()                             // SIGKILL
//	err = f.Start(ctx, host)                      // on what it has on disk
//
// Nothing outlives the program that uses it, however that ends: children die with it (PDEATHSIG), and network namespaces
// have no name, so that the kernel takes them away with whoever was in them.
//
//	fleet.go      hosts: their files, founding and joining
//	spawner.go    processes
//	namespace.go  hosts with a network of their own
//	network.go    links between these, which go down and are slow
//	wire.go       links with a delay
//	wait.go       waiting for what an agent says
//	applied.go    and until what was written is on the targets
//	dial.go       clients of a host's volumes
//	metrics.go    what an agent counts
package fleet
