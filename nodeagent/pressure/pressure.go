// Package pressure tells when a node runs short of memory: by what is left of
// it, and sooner when the kernel says that tasks wait for memory.
package pressure

import "time"

const (
	// shortPercent of the memory available is too little, and enoughPercent is
	// enough again: apart, so that it does not turn back and forth. Between them
	// it is short if tasks stall: then what counts as available is not.
	shortPercent  = 10
	enoughPercent = 20
	// settle is for how long no task may have stalled before it is over.
	settle = 10 * time.Second
)

// Memory is a machine's, in bytes.
type Memory struct{ Total, Available int64 }

// Gauge judges a machine's memory, each time with what it was before. The zero
// value is of a machine that has enough. It is pure.
type Gauge struct {
	short   bool
	stalled time.Time // the last time
}

// Look answers whether memory is short now. stalled says that tasks have waited
// for memory since the last look. A total of 0 is not known, and not short.
func (g *Gauge) Look(m Memory, stalled bool, now time.Time) (short bool) {
	if stalled {
		g.stalled = now
	}
	percent := int64(100)
	if m.Total > 0 {
		percent = m.Available * 100 / m.Total
	}
	quiet := g.stalled.IsZero() || now.Sub(g.stalled) >= settle
	switch {
	case percent < shortPercent:
		g.short = true
	case percent >= enoughPercent:
		g.short = false
	case !g.short:
		g.short = stalled
	default:
		g.short = percent < (shortPercent+enoughPercent)/2 || !quiet
	}
	return g.short
}
