package awake

import (
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// nap is how long a spare waits in the kernel at a time: after 10 ms in one
// system call its processor would be taken from it.
const nap = 5 * time.Millisecond

// spare is a processor of the Go scheduler that is never idle, and does nothing.
//
// The scheduler's monitor thread (sysmon) goes to sleep when all processors are
// idle, which between two steps of a single call they are, and is woken by the
// next system call: a futex on the path of the call, and a thread that looks
// every 20 µs what there is to do, on cores that others need. While one processor
// is in a system call it does not sleep, and soon looks every 10 ms only. The
// spare one is there in addition, so that nobody else has less.
type spare struct {
	end  atomic.Bool
	done chan struct{}
	were int // processors
}

func monitor() (io.Closer, error) {
	s := &spare{done: make(chan struct{}), were: runtime.GOMAXPROCS(0)}
	runtime.GOMAXPROCS(s.were + 1)
	go s.run()
	return s, nil
}

func (s *spare) run() {
	defer close(s.done)
	for !s.end.Load() {
		ts := unix.NsecToTimespec(int64(nap))
		_ = unix.Nanosleep(&ts, nil)
		runtime.Gosched() // it counts as one that runs on and on otherwise
	}
}

// Close implements io.Closer.
func (s *spare) Close() error {
	s.end.Store(true)
	<-s.done
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.SetDefaultGOMAXPROCS() // which follows what the process may use
	} else {
		runtime.GOMAXPROCS(s.were)
	}
	return nil
}
