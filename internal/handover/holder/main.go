// Command holder keeps the sockets of a platform while its process is away: see
// package hold. Descriptor 3 is where the platform finds it.
package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/podsnap/podsnap/internal/handover/hold"
)

// grace is how long sockets are kept when nobody comes for them: longer than
// whoever supervises the platform takes to start it again, and not so long that
// clients of one that has ended for good wait in vain.
const grace = 10 * time.Second

func main() {
	// What ends the platform's session is not meant for us.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
	if err := hold.Run(3, grace); err != nil {
		println("holder:", err.Error())
		os.Exit(1)
	}
}
