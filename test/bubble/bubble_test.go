package bubble_test

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/bubble"
)

// Many timers that are due at one moment, some of them taken by who waits for them: on
// two processors and with the race detector this crashes within a second.
func TestTimersDueTogether(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	for range 40 {
		bubble.Test(t, func(*testing.T) {
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					for range 30 {
						a, b := time.NewTimer(time.Millisecond), time.NewTimer(time.Millisecond)
						<-a.C
						<-b.C
						select {
						case <-time.After(0):
						case <-time.After(time.Second):
						}
					}
				})
			}
			all.Wait()
		})
	}
	if now := runtime.GOMAXPROCS(0); now != before {
		t.Errorf("%d processors after the bubbles, %d before", now, before)
	}
}
