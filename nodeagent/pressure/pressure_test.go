package pressure

import (
	"context"
	"os"
	"testing"
	"time"
)

func TestGauge(t *testing.T) {
	var g Gauge
	begin := time.Unix(1000, 0)
	for i, step := range []struct {
		at        int // seconds
		available int64
		stalled   bool
		short     bool
	}{
		{0, 50, false, false},
		{1, 50, true, false}, // something thrashes within its own limit: the node has enough
		{2, 12, false, false},
		{3, 9, false, true},
		{4, 12, false, true}, // not over yet
		{5, 14, false, true},
		{6, 25, false, false},
		{20, 17, false, false},
		{21, 17, true, true}, // less than enough, and tasks wait
		{22, 17, false, true},
		{30, 17, false, true},
		{31, 17, false, false}, // quiet for long enough
		{32, 0, false, true},
	} {
		if got := g.Look(Memory{100, step.available}, step.stalled, begin.Add(time.Duration(step.at)*time.Second)); got != step.short {
			t.Errorf("step %d: short %v, want %v", i, got, step.short)
		}
	}
	if g.Look(Memory{}, false, begin.Add(time.Hour)) {
		t.Error("a machine whose memory is not known is short")
	}
}

// The kernel takes the trigger, and waiting for it ends with its context.
func TestStalls(t *testing.T) {
	f, err := os.OpenFile("/proc/pressure/memory", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("this kernel does not tell: %v", err)
	}
	f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Stalls(ctx, func() {}) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStallsAreNotTold(t *testing.T) {
	if err := stalls(t.Context(), t.TempDir()+"/memory", func() {}); err == nil {
		t.Error("a kernel that does not tell is no error")
	}
}
