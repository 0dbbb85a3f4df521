package engine

import (
	"net/netip"
	"os"
	"strconv"
	"testing"

	"github.com/podsnap/podsnap/nodeagent/conformance"
)

func (n *node) conformance() conformance.Node {
	return conformance.Node{Runtime: n.Engine, Images: n.Images(), Dir: n.dir, Gateway: netip.MustParseAddr("10.218.0.1"), Processes: []int{n.daemon.Process.Pid}}
}

func TestConformance(t *testing.T) {
	conformance.Run(t, newNode(t).conformance())
}

// TestLeak starts and removes pods; LEAK_PODS says how many.
func TestLeak(t *testing.T) {
	pods := 12
	if s := os.Getenv("LEAK_PODS"); s != "" {
		var err error
		if pods, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	conformance.Leak(t, newNode(t).conformance(), pods)
}
