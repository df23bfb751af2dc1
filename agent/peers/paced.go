package peers

import (
	"net"
	"time"
)

// paced bounds each read and each write of a stream by a deadline of its own: so what is bounded is the time without
// progress, however long a message takes. Its reader and its writer are one goroutine each.
type paced struct {
	net.Conn
	silence, stall time.Duration

	readArmed  time.Time // owned by the reader
	writeArmed time.Time // owned by the writer
}

// arm says whether a deadline that was set at last, for a duration of d, is to be set anew. Doing so only every so often
// saves most of its cost, and shortens no wait by more than an eighth.
func arm(last *time.Time, d time.Duration) (deadline time.Time, due bool) {
	now := time.Now()
	if now.Sub(*last) < d/8 {
		return time.Time{}, false
	}
	*last = now
	return now.Add(d), true
}

func (c *paced) Read(p []byte) (int, error) {
	if deadline, due := arm(&c.readArmed, c.silence); due {
		if err := c.Conn.SetReadDeadline(deadline); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

func (c *paced) Write(p []byte) (int, error) {
	if deadline, due := arm(&c.writeArmed, c.stall); due {
		if err := c.Conn.SetWriteDeadline(deadline); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}
