// Package agent is the daemon: it makes one node of the protocol and the parts that perform what the node decides, as
// the agent's file says, and serves the API.
//
//	cfg, err := agent.LoadConfig(path)
//	a, err := agent.New(cfg, agent.Options{Logger: log})
//	err = a.Run(ctx) // until ctx ends
//
// Before that a host becomes an agent by [Found], which makes a cluster, or by [Join].
//
//	config.go    the agent's file
//	statedir.go  what lies in its state directory, and its lock
//	found.go     a new cluster; who this agent is
//	join.go      joining, the joiner's side
//	admit.go     joining, the cluster's side: tokens, certificates
//	renew.go     certificates are renewed before they run out
//	expiry.go    alarms about certificates that are about to
//	agent.go     Run: the parts, started in order and stopped in the reverse order
//	parts.go     what each part is made of, and how effects of the node reach it
//	transport.go what the roles ask of package peers
//	listen.go    ports and sockets
//	exports.go   what is served over NBD, and where
//	server.go    the API: who answers, the way to the captain
//	handlers.go  the API: each request
//	propose.go   commands through Raft, for those who wait for their outcome
//	status.go    the status document; plan.go: what a promote would come to
//	events.go    the newest events
//	metrics.go   Prometheus' view of all that
package agent
