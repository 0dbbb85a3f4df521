package cluster

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/skew"
	"github.com/podsnap/podsnap/test/cluster/load"
	"github.com/podsnap/podsnap/test/platform"
)

// upgradeRate is how often each gateway is called in a second: seldom enough for a
// machine on which three hosts start platforms.
const upgradeRate = 40

// rolling is a cluster whose machines become another build one after the other,
// under load through each gateway.
type rolling struct {
	t     *testing.T
	nodes []*Node
	loads []*load.Load
}

func roll(t *testing.T, c *Cluster, nodes []*Node) *rolling {
	t.Helper()
	r := &rolling{t: t, nodes: nodes}
	for i, n := range nodes {
		r.loads = append(r.loads, load.Start(t.Context(), load.Config{
			Gateways: []string{n.URL}, Client: c.Client.HTTPClient(), Path: "/function/witness?sleep=5ms", Rate: upgradeRate, Name: fmt.Sprintf("u%d", i), Timeout: 20 * time.Second,
		}))
	}
	r.served(50)
	return r
}

// served waits until so many more calls were made through each gateway.
func (r *rolling) served(n int) {
	r.t.Helper()
	for _, l := range r.loads {
		was := len(l.Calls())
		platform.Eventually(r.t, patience, func() error {
			if more := len(l.Calls()) - was; more < n {
				return fmt.Errorf("%d more calls, want %d", more, n)
			}
			return nil
		})
	}
}

// turn has a node become another build. want are the versions of all nodes then, as
// ask tells them.
func (r *rolling) turn(n, ask *Node, program string, want ...string) {
	r.t.Helper()
	n.Terminate()
	n.Become(program)
	n.Start()
	platform.Eventually(r.t, patience, func() error { return versions(r.t, ask, want) })
	r.served(50)
}

// end ends the load, of which no call may have failed.
func (r *rolling) end() {
	r.t.Helper()
	for i, l := range r.loads {
		v := load.Judge(l.Stop(), 0)
		if v.Failed > 0 || v.Sent < 200 {
			r.t.Errorf("through %s %d of %d calls failed: %v", r.nodes[i].Host.Name, v.Failed, v.Sent, v.Faults)
		}
		r.t.Logf("through %s: %d calls, none of them for %v at most", r.nodes[i].Host.Name, v.Sent, v.Gap)
	}
	for _, n := range r.nodes { // none, on a machine that is quick enough
		r.t.Logf("%s has taken %d nodes for lost", n.Host.Name, strings.Count(n.Log(10_000), `msg="node is lost"`))
	}
}

// builds makes the next release and the one after it, and tells what this one is
// called. Their programs are faas-next and faas-after.
func builds(t *testing.T) (old, next, after string, programs map[string]string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), platform.Binary(t), "version", "--short-version").Output()
	if err != nil {
		t.Fatal(err)
	}
	old = strings.TrimSpace(string(out))
	v := skew.Parse(old)
	next, after = fmt.Sprintf("v%d.%d.0", v.Major, v.Minor+1), fmt.Sprintf("v%d.%d.0", v.Major, v.Minor+2)
	return old, next, after, map[string]string{"faas-next": platform.BuildVersion(t, next), "faas-after": platform.BuildVersion(t, after)}
}

// works waits until the function answers through all gateways.
func works(t *testing.T, c *Cluster, nodes []*Node) {
	t.Helper()
	if err := deploy(t.Context(), nodes[0], 6, nil); err != nil {
		t.Fatal(err)
	}
	client := c.Client.HTTPClient()
	for _, n := range nodes {
		platform.Eventually(t, patience, func() error { return call(t.Context(), client, n, 5*time.Second) })
	}
}

// A cluster of three hosts is upgraded as the policy of package skew says, under
// load through each gateway: server first, then nodes. No call fails. Nodes that
// are newer than the server, and too old ones, are refused in words, and go on with
// the right build.
func TestUpgrade(t *testing.T) {
	leaveNothing(t)
	old, next, after, programs := builds(t)
	c := New(t, Config{Programs: programs})
	nodes := c.One(Build(t, "testdata")...)
	server, worker := nodes[0], nodes[1]
	works(t, c, nodes)

	worker.Terminate()
	worker.Become("faas-next")
	if said := worker.Refuses(); !strings.Contains(said, "upgrade the servers first") || !strings.Contains(said, next) {
		t.Errorf("a node that is newer than its server says\n%s", said)
	}
	worker.Become("faas")
	worker.Start()
	platform.Eventually(t, patience, func() error { return server.allReady(t.Context(), len(nodes)) })

	r := roll(t, c, nodes)
	r.turn(server, server, "faas-next", next, old, old)
	r.turn(nodes[1], server, "faas-next", next, next, old)
	r.turn(nodes[2], server, "faas-next", next, next, next)
	r.end()

	// A node of the former version works with this server, not with the next.
	worker.Terminate()
	worker.Become("faas")
	worker.Start()
	platform.Eventually(t, patience, func() error { return versions(t, server, []string{next, old, next}) })
	server.Terminate()
	server.Become("faas-after")
	server.Start()
	platform.Eventually(t, patience, func() error {
		if log := worker.Log(40); !strings.Contains(log, "upgrade the node") || !strings.Contains(log, after) {
			return fmt.Errorf("a node that has become too old says\n%s", log)
		}
		return server.allReady(t.Context(), len(nodes)-1)
	})
	worker.Terminate()
	if said := worker.Refuses(); !strings.Contains(said, "upgrade the node") || !strings.Contains(said, after) {
		t.Errorf("a node that is too old says\n%s", said)
	}
	worker.Become("faas-next")
	worker.Start()
	platform.Eventually(t, patience, func() error { return server.allReady(t.Context(), len(nodes)) })
}

// Three servers are upgraded one after the other, under load through each gateway.
// No call fails, though leadership moves; a server that skips a version does not
// start beside the others.
func TestUpgradeServers(t *testing.T) {
	leaveNothing(t)
	old, next, after, programs := builds(t)
	c := New(t, Config{Programs: programs})
	images := Build(t, "testdata")
	for _, h := range c.Hosts {
		c.Images(h, images...)
	}
	nodes := c.Together(c.Hosts)
	works(t, c, nodes)

	nodes[1].Terminate()
	nodes[1].Become("faas-after")
	if said := nodes[1].Refuses(); !strings.Contains(said, "servers may be one minor version apart") || !strings.Contains(said, after) {
		t.Errorf("a server that is two versions ahead says\n%s", said)
	}
	nodes[1].Become("faas")
	nodes[1].Start()
	platform.Eventually(t, patience, func() error { return versions(t, nodes[0], []string{old, old, old}) })

	r := roll(t, c, nodes)
	r.turn(nodes[2], nodes[0], "faas-next", old, old, next)
	r.turn(nodes[1], nodes[0], "faas-next", old, next, next)
	r.turn(nodes[0], nodes[1], "faas-next", next, next, next)
	r.end()
}

// versions tells how what `faas node list` shows differs from what is wanted: all
// nodes ready, and of these releases.
func versions(t *testing.T, server *Node, want []string) error {
	t.Helper()
	out, err := server.Faas(t.Context(), "", "node", "list", "-o", "json")
	if err != nil {
		return err
	}
	var list []struct{ Name, Status, Version string }
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return err
	}
	if len(list) != len(want) {
		return fmt.Errorf("%d nodes: %v", len(list), list)
	}
	for i, n := range list {
		if n.Status != "Ready" || n.Version != want[i] {
			return fmt.Errorf("%+v, want %v", list, want)
		}
	}
	return nil
}
