package main

import (
	"context"

	"flotilla/internal/fio"
)

// runFio runs a job against an NBD URI.
func runFio(ctx context.Context, o options, j fio.Job, uri string) (fio.Outcome, error) {
	text, err := once(ctx, j.Args(fio.Span{Size: o.size, Runtime: o.runtime, Ramp: o.ramp}, "--ioengine=nbd", "--uri="+uri)...)
	if err != nil {
		return fio.Outcome{}, err
	}
	return j.Parse([]byte(text))
}
