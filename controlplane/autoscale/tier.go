package autoscale

import "time"

// Tier is how warm an idle replica is kept.
type Tier string

// The tiers, from the warmest.
const (
	TierRunning Tier = "running" // its processes run
	TierFrozen  Tier = "frozen"  // its processes are there, and stopped by the cgroup freezer
	TierParked  Tier = "parked"  // its sandbox with its root file system is there, without a process
	TierNone    Tier = "none"    // nothing of it is there
)

// What each tier costs until the first byte of an answer. Measured on a 2-core
// machine, medians; docs/design/005-scaling.md has the table.
const (
	ReadyRunning = 490 * time.Microsecond  // a new connection to a running one
	ReadyFrozen  = 920 * time.Microsecond  // thaw by the v1 freezer; 650 µs by cgroup.freeze
	ReadyParked  = 3 * time.Millisecond    // exec in a parked sandbox that has the root file system
	ReadyNone    = 4800 * time.Microsecond // a generic parked sandbox: root file system, exec
)

// What each tier holds of memory while idle, in bytes, besides the function's
// own, which a running and a frozen one keep. Upper bounds of what was
// measured.
const (
	HeldRunning = 700 << 10          // of the kernel: slab, page tables, stacks
	HeldFrozen  = HeldRunning        // a frozen process gives nothing back
	HeldParked  = (1184 + 700) << 10 // the spawner's process, in Go, and the kernel's
	HeldNone    = 0
)

const (
	// FreezeAfter is how long a replica is idle before it is frozen: freezing
	// and thawing at every call would cost more than its timers.
	FreezeAfter = 5 * time.Second

	// A sandbox stays parked while a request within parkHorizon has a chance of
	// at least parkChance, and at most for parkLimit.
	parkHorizon = 10 * time.Minute
	parkChance  = 0.02
	parkLimit   = 24 * time.Hour
)

// Cost is the time to the first byte that a tier needs, and the memory that it
// holds while idle; own is the function's own memory, in bytes.
func (t Tier) Cost(own uint64) (ready time.Duration, held uint64) {
	switch t {
	case TierRunning:
		return ReadyRunning, own + HeldRunning
	case TierFrozen:
		return ReadyFrozen, own + HeldFrozen
	case TierParked:
		return ReadyParked, HeldParked
	case TierNone:
	}
	return ReadyNone, HeldNone
}

// tier is the one for the replicas that are idle now, and when it is to be
// looked at again; 0 is never. Functions that are never scaled to zero may work
// without being called, and are never frozen.
func (p Policy) tier(w *Window, k Keep, idle time.Duration, busy bool) (t Tier, change time.Duration) {
	switch {
	case busy || !p.MayBeZero():
		return TierRunning, 0
	case idle < FreezeAfter:
		return TierRunning, FreezeAfter - idle
	case idle < k.After:
		return TierFrozen, k.After - idle
	case k.expects(idle):
		return TierFrozen, k.Until - idle
	}
	if idle < parkLimit && w.Gaps.Soon(idle, parkHorizon) >= parkChance {
		return TierParked, max(parkHorizon, idle/2) // the chance falls ever more slowly
	}
	return TierNone, 0
}
