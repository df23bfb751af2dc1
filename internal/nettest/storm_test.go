//go:build nettest

package nettest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"time"
)

// The storm: how many rounds it has, and how long one lasts at most.
const (
	stormRounds = 14
	stormRound  = 7 * time.Second
)

// storm cuts three links at random, one way or both, for a moment that may or may not be enough for a loss to be declared, and
// then three others. FLOTILLA_SEED repeats the choice, though not the moments.
func storm(r *run) {
	seed := rand.Uint64()
	if text := os.Getenv("FLOTILLA_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		r.must(err)
	}
	r.say("FLOTILLA_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	hosts := r.all()
	for range stormRounds {
		var ways [][2]*host
		text := ""
		for range 3 {
			i, j := rng.IntN(len(hosts)), rng.IntN(len(hosts)-1)
			if j >= i {
				j++
			}
			ways = append(ways, [2]*host{hosts[i], hosts[j]})
			text += fmt.Sprintf(" %s→%s", hosts[i].Name, hosts[j].Name)
			if rng.IntN(2) == 0 {
				ways = append(ways, [2]*host{hosts[j], hosts[i]})
				text += fmt.Sprintf(" %s→%s", hosts[j].Name, hosts[i].Name)
			}
		}
		lasts := time.Duration(rng.Int64N(int64(stormRound)))
		r.say("cut for %.1f s:%s", lasts.Seconds(), text)
		for _, w := range ways {
			r.must(r.net.cut(r.ctx, w[0].node, w[1].node, true))
		}
		r.pass(lasts)
		for _, w := range ways {
			r.must(r.net.cut(r.ctx, w[0].node, w[1].node, false))
		}
	}
	r.say("the storm is over: as before after %.1f s; %s", r.calm(stepTime).Seconds(), r.slowest())
	r.finish()
	r.promote(true)
}
