package peers

import (
	"flotilla/agent/apply"
	"flotilla/wire"
	"flotilla/wire/identity"
)

// Kind says what a connection carries.
type Kind uint8

// The kinds.
const (
	Control Kind = iota
	Data
	Raft
	Apply
	kinds
)

// String returns the kind's name in logs and metrics.
func (k Kind) String() string {
	switch k {
	case Control:
		return "control"
	case Data:
		return "data"
	case Raft:
		return "raft"
	case Apply:
		return "apply"
	}
	return "unknown"
}

// roleApply tells apply connections from those for frames, which have the same ALPN name.
const roleApply wire.ConnRole = 3

// kindOf returns the kind of an incoming connection.
func kindOf(protocol string, role wire.ConnRole) (Kind, bool) {
	for k := range kinds {
		if k.protocol() == protocol && k.role() == role {
			return k, true
		}
	}
	return 0, false
}

func (k Kind) protocol() string {
	switch k {
	case Control:
		return identity.ProtocolControl
	case Raft:
		return identity.ProtocolRaft
	}
	return identity.ProtocolData
}

func (k Kind) role() wire.ConnRole {
	switch k {
	case Data:
		return wire.RoleData
	case Apply:
		return roleApply
	}
	return wire.RoleControl
}

// The types of messages, see the package's comment.
const (
	typeBeat     = wire.TypeControl
	typeMessage  = wire.TypeControl + 1
	typeRaft     = wire.TypeControl + 2
	typeSnapshot = wire.TypeControl + 3
	typeApply    = wire.TypeControl + 4
	typeAnswer   = wire.TypeControl + 5
)

// limits returns what a connection of the kind takes.
func (k Kind) limits() *wire.Limits {
	var l wire.Limits
	l[typeBeat] = 1 // a limit of 0 would refuse the type
	switch k {
	case Control:
		l[typeMessage] = MaxMessage
	case Data:
		l[wire.TypeFrame] = wire.RouteLength + wire.MaxBodyLength
	case Raft:
		l[typeRaft] = MaxMessage
		l[typeSnapshot] = MaxSnapshot
	case Apply:
		l[typeApply] = callHeaderLength + apply.MaxLength
		l[typeAnswer] = answerHeaderLength + maxAnswerText
	}
	return &l
}
