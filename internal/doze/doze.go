// Package doze lets a process that does next to nothing sleep more soundly. What
// an idle platform costs is waking up: for a dozen timers of its libraries,
// each of which wakes several threads of the Go runtime one after the other.
// Linux puts wake-ups together where it is told how late they may be
// (PR_SET_TIMERSLACK); with some milliseconds instead of 50 µs there are half or
// a third of them. A process that works gets its 50 µs back, since the runtime
// also waits with timers for system calls that take long.
package doze

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// every is how often the process looks at itself.
	every = 2 * time.Second
	// usual is the kernel's own slack.
	usual = 50 * time.Microsecond
	// It dozes when it used less than a thirtieth of a processor, and wakes up
	// when it used twice as much.
	littleOf = 30
	muchOf   = 15
)

// Run lets all timers of this process's threads be late by slack whenever it does
// little, until ctx is done.
func Run(ctx context.Context, slack time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	dozes, last, at := false, used(), time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			set(usual)
			return
		}
		u, now := used(), time.Now()
		was := dozes
		if dozes = next(dozes, u-last, now.Sub(at)); dozes {
			set(slack) // each time: there may be new threads
		} else if was {
			set(usual)
		}
		last, at = u, now
	}
}

// next is whether a process dozes that used so much of a processor in that time.
func next(dozes bool, used, in time.Duration) bool {
	if dozes {
		return used < in/muchOf
	}
	return used < in/littleOf
}

// used is how much processor time the process has had.
func used() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0 // it has no other error than a wrong argument
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// set sets the slack of all threads. Without the right to it (CAP_SYS_NICE) they
// keep what they have.
func set(slack time.Duration) {
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, t := range tasks {
		_ = os.WriteFile(filepath.Join("/proc", t.Name(), "timerslack_ns"), strconv.AppendInt(nil, slack.Nanoseconds(), 10), 0)
	}
}
