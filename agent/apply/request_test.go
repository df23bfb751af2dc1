package apply_test

import (
	"errors"
	"math"
	"testing"

	"flotilla/agent/apply"
	"flotilla/wire"
)

func TestValidate(t *testing.T) {
	data := []byte("four")
	good := apply.Piece{Kind: wire.KindWrite, Offset: 8, Length: 4, Sum: apply.Sum(data), Data: data}
	with := func(change func(*apply.Piece)) *apply.Request {
		p := good
		change(&p)
		return &apply.Request{Pieces: []apply.Piece{p}}
	}
	for name, tt := range map[string]struct {
		req *apply.Request
		ok  bool
	}{
		"write":        {with(func(*apply.Piece) {}), true},
		"trim":         {with(func(p *apply.Piece) { p.Kind, p.Data, p.Sum = wire.KindTrim, nil, 0 }), true},
		"sum of trim":  {with(func(p *apply.Piece) { p.Kind, p.Data = wire.KindTrim, nil }), false},
		"flush alone":  {&apply.Request{Flush: true}, true},
		"nothing":      {&apply.Request{}, false},
		"wrong sum":    {with(func(p *apply.Piece) { p.Sum++ }), false},
		"short data":   {with(func(p *apply.Piece) { p.Length = 5 }), false},
		"no length":    {with(func(p *apply.Piece) { p.Length, p.Data = 0, nil }), false},
		"data of zero": {with(func(p *apply.Piece) { p.Kind = wire.KindZero }), false},
		"check":        {with(func(p *apply.Piece) { p.Kind = wire.KindCheck }), false},
		"past the end": {with(func(p *apply.Piece) { p.Offset = math.MaxInt64 - 3 }), false},
		"many":         {&apply.Request{Pieces: make([]apply.Piece, apply.MaxPieces+1)}, false},
		"much": {with(func(p *apply.Piece) {
			p.Data = make([]byte, apply.MaxData+1)
			p.Length, p.Sum = apply.MaxData+1, apply.Sum(p.Data)
		}), false},
	} {
		err := tt.req.Validate()
		if (err == nil) != tt.ok || (err != nil && !errors.Is(err, apply.ErrInvalid)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
