// Package bubble runs tests in virtual time.
package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

var (
	mu       sync.Mutex
	running  int // bubbles
	ordinary int // processors, while there are none
)

// Test is synctest.Test on one processor. With several, timers of one bubble that are
// due together run on several threads with one context of the race detector, which
// destroys it: the test ends in a SIGSEGV (golang/go#78156). Races are found all the
// same: the detector looks at what is ordered, not at what is simultaneous.
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	enter()
	defer leave()
	synctest.Test(t, f)
}

func enter() {
	mu.Lock()
	defer mu.Unlock()
	if running++; running == 1 {
		ordinary = runtime.GOMAXPROCS(1)
	}
}

func leave() {
	mu.Lock()
	defer mu.Unlock()
	if running--; running == 0 {
		runtime.GOMAXPROCS(ordinary)
	}
}
