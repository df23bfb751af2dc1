// Package api is what an agent and those who talk to it agree on: the documents, requests and errors of its HTTP
// interface, and a client.
//
// An agent serves the same interface on <state_dir>/admin.sock for commands on its host and, to other agents of its
// cluster, on its port under the ALPN protocol flotilla-api/1. What only the captain can answer or decide is passed on to
// it by whoever is asked.
//
//	GET    /v1/status                         Status
//	GET    /v1/events?after=N&wait=SECONDS    EventPage
//	GET    /v1/agent                          Local: what only this agent knows
//	POST   /v1/agent/devices                  AttachRequest → BlockDevice, on the host's socket only
//	DELETE /v1/agent/devices/{group}/{volume}?force=1
//	GET    /v1/agents/{agent}                 Local of another agent
//	GET    /v1/agents/{agent}/device?path=P   Device: the size of a file or block device there
//	PATCH  /v1/agents/{agent}                 AgentChange
//	DELETE /v1/agents/{agent}                 takes an agent out of the cluster
//	POST   /v1/agents                         AgentRequest, by the agent that admits a joiner
//	POST   /v1/tokens                         TokenRequest → Token
//	POST   /v1/certificates                   CertificateRequest → Certificate, from another agent only
//	POST   /v1/token-hashes                   TokenHash, by the agent that made the token
//	POST   /v1/groups                         GroupRequest → Made
//	PATCH  /v1/groups/{group}                 GroupRequest
//	DELETE /v1/groups/{group}
//	POST   /v1/groups/{group}/volumes         VolumeRequest → Made
//	DELETE /v1/groups/{group}/volumes/{volume}
//	GET    /v1/groups/{group}/promote         Plan
//	POST   /v1/groups/{group}/promote
//	GET    /metrics                           Prometheus' text format
//
// Groups, volumes and agents are named by their names. An answer above 299 carries an [Error]. Keys of documents keep
// their names and meanings within a [Version]; new ones may come. Joiners speak only JoinRequest and JoinAnswer, on
// flotilla-join/1.
package api

// Version is the version of the documents.
const Version = 1

// MaxRequest and MaxAnswer bound bodies, in bytes.
const (
	MaxRequest = 1 << 20
	MaxAnswer  = 64 << 20
)
