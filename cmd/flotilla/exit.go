package main

import (
	"context"
	"errors"

	"flotilla/agent"
	"flotilla/agent/api"
)

// The exit codes.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitUnknown     = 4
	exitDiffers     = 5
)

const exitHelp = `Exit codes:
  0  done
  1  refused or failed; nothing was changed
  2  wrong usage: a flag, an argument or the configuration
  3  the agent or the captain cannot be reached, or did not answer in time
  4  the outcome is not known: it may have been done; look before you repeat it
  5  check: targets differ from their sources, or it is not known whether they do`

// usageError is a mistake in how the command was called.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	_, usage := errors.AsType[*usageError](err)
	if usage || errors.Is(err, agent.ErrConfig) {
		return exitUsage
	}
	if _, ok := errors.AsType[*differenceError](err); ok {
		return exitDiffers
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitUnreachable
	}
	switch api.CodeOf(err) {
	case api.Invalid:
		return exitUsage
	case api.Unavailable:
		return exitUnreachable
	case api.Unknown:
		return exitUnknown
	}
	return exitError
}
