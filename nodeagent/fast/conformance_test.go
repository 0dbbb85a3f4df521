package fast

import (
	"net/netip"
	"os"
	"strconv"
	"testing"

	"github.com/podsnap/podsnap/nodeagent/conformance"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

func (n *node) conformance() conformance.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return conformance.Node{
		Runtime: n.Runtime, Images: n.engine.Images(), Dir: n.dir, Gateway: netip.MustParseAddr("10.217.0.1"), Single: true, Processes: []int{n.daemon.Process.Pid, n.launcher},
	}
}

// TestConformance holds this runtime to the isolation that is promised, and
// each fact of its containers to that of containerd and runc.
func TestConformance(t *testing.T) {
	n := newNode(t)
	n.parked()
	here := n.conformance()
	there := here
	there.Runtime, there.Single = n.engine, false
	slow, fast := conformance.Look(t, there), conformance.Run(t, here)
	for c := range slow {
		if fast[c] == nil { // what this runtime has not
			delete(slow, c)
		}
	}
	conformance.Diff(t, slow, fast)
}

// TestRecycled: a slot that is used again is as good as a new one.
func TestRecycled(t *testing.T) {
	n := newNode(t)
	conformance.Recycled(t, n.conformance(), func(sb runtime.Sandbox) runtime.Sandbox {
		s := n.Runtime.sandbox(sb.ID)
		if s.slot.dirty {
			t.Fatal("it would not be used again")
		}
		slot, err := n.recycleSlot(s.slot)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(n.sandboxDir(sb.ID) + "/hosts"); err != nil { // a new sandbox has none
			t.Fatal(err)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		s.slot, s.info.IP = slot, slot.ip.String()
		return s.info
	})
}

// TestLeak starts and removes pods; LEAK_PODS says how many.
func TestLeak(t *testing.T) {
	pods := 40
	if s := os.Getenv("LEAK_PODS"); s != "" {
		var err error
		if pods, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	// A pool that grows with need would hold more in the end.
	n := newNode(t, func(c *Config) { c.MostParked = c.Parked })
	n.parked()
	conformance.Leak(t, n.conformance(), pods)
}
