package nbd

import (
	"fmt"

	"flotilla/nbd/internal/proto"
)

// check decides whether a request may go to the export. The error says, as
// an Errno, what the protocol wants a client to be told.
func (c *conn) check(q proto.Request) error {
	if _, known := requestOp(q.Type); !known {
		return fmt.Errorf("%w: unknown command %d", EINVAL, q.Type)
	}
	if c.isDraining() {
		return ESHUTDOWN
	}
	if bad := q.Flags &^ c.validFlags(q.Type); bad != 0 {
		return fmt.Errorf("%w: flags %#x do not apply to command %d", EINVAL, bad, q.Type)
	}
	switch q.Type {
	case proto.CmdRead:
		return c.checkRead(q)
	case proto.CmdWrite:
		if q.Length > c.info.MaxPayload {
			return fmt.Errorf("%w: write of %d bytes, the limit is %d", EINVAL, q.Length, c.info.MaxPayload)
		}
		return c.checkChange(q, ENOSPC)
	case proto.CmdFlush:
		if q.Offset != 0 || q.Length != 0 {
			return fmt.Errorf("%w: flush with offset %d and length %d, both must be 0", EINVAL, q.Offset, q.Length)
		}
		return c.checkOffered(proto.FlagSendFlush, "flush")
	case proto.CmdTrim:
		if err := c.checkChange(q, EINVAL); err != nil {
			return err
		}
		return c.checkOffered(proto.FlagSendTrim, "trim")
	case proto.CmdWriteZeroes:
		if err := c.checkChange(q, ENOSPC); err != nil {
			return err
		}
		return c.checkOffered(proto.FlagSendWriteZeroes, "write zeroes")
	case proto.CmdCache:
		if err := c.checkOffered(proto.FlagSendCache, "cache"); err != nil {
			return err
		}
		return c.checkPlace(q, EINVAL)
	default: // block status
		if !c.allocation {
			return fmt.Errorf("%w: block status without a selected metadata context", EINVAL)
		}
		if q.Length == 0 {
			return fmt.Errorf("%w: block status of no bytes", EINVAL)
		}
		return c.checkPlace(q, EINVAL)
	}
}

func (c *conn) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

func (c *conn) validFlags(cmd uint16) uint16 {
	var valid uint16
	if c.flags&proto.FlagSendFUA != 0 {
		valid |= proto.CmdFlagFUA // allowed, if useless, on every command
	}
	switch cmd {
	case proto.CmdRead:
		if c.structured {
			valid |= proto.CmdFlagDF
		}
	case proto.CmdWriteZeroes:
		valid |= proto.CmdFlagNoHole
		if c.flags&proto.FlagSendFastZero != 0 {
			valid |= proto.CmdFlagFastZero
		}
	case proto.CmdBlockStatus:
		valid |= proto.CmdFlagReqOne
	}
	return valid
}

func (c *conn) checkRead(q proto.Request) error {
	if q.Length > c.info.MaxPayload {
		code := EINVAL
		if c.structured {
			code = EOVERFLOW
		}
		return fmt.Errorf("%w: read of %d bytes, the limit is %d", code, q.Length, c.info.MaxPayload)
	}
	return c.checkPlace(q, EINVAL)
}

// checkChange checks a request that changes the export; past is the error
// for one beyond its end.
func (c *conn) checkChange(q proto.Request, past Errno) error {
	if c.info.ReadOnly {
		return fmt.Errorf("%w: the export is read-only", EPERM)
	}
	return c.checkPlace(q, past)
}

func (c *conn) checkPlace(q proto.Request, past Errno) error {
	if !c.info.checkRange(q.Offset, q.Length) && !c.grown(q) {
		return fmt.Errorf("%w: %d bytes at %d are past the end of the export at %d", past, q.Length, q.Offset, c.info.Size)
	}
	if !c.info.aligned(q.Offset, q.Length) {
		return fmt.Errorf("%w: %d bytes at %d do not keep to the minimum block of %d", EINVAL, q.Length, q.Offset, c.info.MinBlock)
	}
	return nil
}

// grown asks the export again where a request goes past the end that it had: a client that knows it to be larger by now, as the
// kernel may, need not connect anew. Only the reader calls it.
func (c *conn) grown(q proto.Request) bool {
	now := c.export.Info()
	return now.Size > c.info.Size && now.checkRange(q.Offset, q.Length)
}

func (c *conn) checkOffered(flag uint16, what string) error {
	if c.flags&flag == 0 {
		return fmt.Errorf("%w: %s is not offered by this export", EINVAL, what)
	}
	return nil
}
