package nbd

import (
	"fmt"
	"time"

	"flotilla/nbd/internal/proto"
)

// Limits bound what clients can make a server hold. Zero fields stand for the
// defaults.
type Limits struct {
	Connections int           // at a time; default 256
	Requests    int           // in flight of one connection; default 256
	Workers     int           // goroutines of one connection for requests that block; default 64
	Payload     uint32        // bytes of one read or write; default and most 32 MiB
	ConnBytes   int64         // bytes of data in flight of one connection; default 64 MiB
	MemoryBytes int64         // bytes of data in flight of all connections; default 256 MiB
	Handshake   time.Duration // for a whole handshake; default 10 s
	Stall       time.Duration // for the rest of a request once it has begun, and for a client that takes no replies; default 60 s
	Drain       time.Duration // for requests in flight at shutdown; default 30 s
	Park        time.Duration // for requests in flight of a resumable connection at shutdown; default 3 s
}

// withDefaults fills in zero fields and checks the rest.
func (l Limits) withDefaults() (Limits, error) {
	orInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	orBytes := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	orTime := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	orInt(&l.Connections, 256)
	orInt(&l.Requests, 256)
	orInt(&l.Workers, 64)
	if l.Payload == 0 {
		l.Payload = proto.DefaultMaxLength
	}
	orBytes(&l.ConnBytes, 64<<20)
	orBytes(&l.MemoryBytes, 256<<20)
	orTime(&l.Handshake, 10*time.Second)
	orTime(&l.Stall, 60*time.Second)
	orTime(&l.Drain, 30*time.Second)
	orTime(&l.Park, 3*time.Second)

	one := classSize(int(min(l.Payload, proto.DefaultMaxLength)))
	switch {
	case l.Connections < 1 || l.Requests < 1 || l.Workers < 1:
		return l, fmt.Errorf("check NBD limits: connections %d, requests %d and workers %d must be at least 1",
			l.Connections, l.Requests, l.Workers)
	case l.Payload < 1<<20 || l.Payload > proto.DefaultMaxLength:
		return l, fmt.Errorf("check NBD limits: payload %d is not between 1 MiB and 32 MiB", l.Payload)
	case l.ConnBytes < one || l.MemoryBytes < one:
		return l, fmt.Errorf("check NBD limits: memory of %d bytes a connection and %d in all must hold one payload of %d bytes",
			l.ConnBytes, l.MemoryBytes, one)
	case l.Handshake < 0 || l.Stall < 0 || l.Drain < 0 || l.Park < 0:
		return l, fmt.Errorf("check NBD limits: times %v, %v, %v and %v must not be negative", l.Handshake, l.Stall, l.Drain, l.Park)
	}
	return l, nil
}
