package agent

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A failure ends the agent by itself: nobody else cancels anything.
func TestFailureEndsTheAgent(t *testing.T) {
	c := testConfig(t, "first")
	if _, err := Found(c, time.Now()); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	a, err := New(c, Options{Ready: func() { close(ready) }})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { ended <- a.Run(ctx) }()
	<-ready
	broken := errors.New("broken")
	a.fail(broken)
	select {
	case err := <-ended:
		if !errors.Is(err, broken) {
			t.Errorf("ended with %v", err)
		}
	case <-testContext(t).Done():
		cancel()
		t.Fatalf("it did not end; when cancelled: %v", <-ended)
	}
}
