package fast

import (
	"net/netip"
	"os"
	"strconv"
	"testing"

	"github.com/podsnap/podsnap/nodeagent/conformance"
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

// TestLeak starts and removes pods; LEAK_PODS says how many.
func TestLeak(t *testing.T) {
	pods := 40
	if s := os.Getenv("LEAK_PODS"); s != "" {
		var err error
		if pods, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	n := newNode(t)
	n.parked()
	conformance.Leak(t, n.conformance(), pods)
}
