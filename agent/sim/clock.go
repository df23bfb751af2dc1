package sim

import "time"

// clock is a host's own: it goes at a rate of its own and may jump ahead, but never goes back. Its zero shows the
// world's time.
type clock struct {
	drift float64       // in excess of one second a second
	ahead time.Duration // of the world's, at the time set
	set   time.Duration
}

// at returns what the clock shows at a time of the world.
func (c *clock) at(now time.Duration) time.Duration {
	return now + c.ahead + time.Duration(c.drift*float64(now-c.set))
}

// adjust gives the clock another rate, and moves it forward.
func (c *clock) adjust(now time.Duration, drift float64, jump time.Duration) {
	c.ahead = c.at(now) - now + jump
	c.set, c.drift = now, drift
}

// time is what the host's clock shows now.
func (h *host) time() time.Duration { return h.clock.at(h.w.now) }
