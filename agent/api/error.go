package api

import (
	"errors"
	"net/http"
)

// Code says what kind of failure an Error is.
type Code string

// The codes.
const (
	Invalid     Code = "invalid"     // the request itself is wrong
	NotFound    Code = "not_found"   // it names something that is not there
	Refused     Code = "refused"     // the cluster's state forbids it
	Unavailable Code = "unavailable" // no captain, or it cannot be reached; nothing was done
	Unknown     Code = "unknown"     // it may have been done, or may still be
	Internal    Code = "internal"
)

// Error is a failure with its kind. Its text is for people.
type Error struct {
	Code Code   `json:"code"`
	Text string `json:"error"`
}

func (e *Error) Error() string { return e.Text }

// HTTPStatus returns the status of an answer with this error.
func (e *Error) HTTPStatus() int {
	switch e.Code {
	case Invalid:
		return http.StatusBadRequest
	case NotFound:
		return http.StatusNotFound
	case Refused:
		return http.StatusConflict
	case Unavailable:
		return http.StatusServiceUnavailable
	case Unknown:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

// CodeOf returns the code of an error, Internal where it has none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}
