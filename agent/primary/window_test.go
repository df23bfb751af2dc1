package primary

import (
	"testing"
	"time"
)

// TestWindowMeasuresTheLink: the rate is that at which frames leave while others wait, however long nothing was to be sent.
func TestWindowMeasuresTheLink(t *testing.T) {
	const frame, link = 1 << 20, 10 << 20 // a frame takes 100 ms
	w := window{size: 16 * frame, max: 16 * frame, min: frame}
	now := time.Unix(1, 0)
	if w.rate() != 0 {
		t.Errorf("%d bytes a second before anything was sent", w.rate())
	}
	for range 5 {
		now = now.Add(time.Minute) // nothing is to be sent
		began := now
		for range 4 {
			w.sent(frame, began)
		}
		for range 4 {
			now = now.Add(frame * time.Second / link)
			w.released(frame, now.Sub(began), now)
		}
		if got := w.rate(); got < link*9/10 || got > link*11/10 {
			t.Fatalf("%d bytes a second, want %d", got, link)
		}
	}
}
