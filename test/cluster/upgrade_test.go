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

// A cluster of three hosts is upgraded as the policy of package skew says, under
// load through each gateway: server first, then nodes. No call fails. Nodes that
// are newer than the server, and too old ones, are refused in words, and go on with
// the right build.
func TestUpgrade(t *testing.T) {
	leaveNothing(t)
	out, err := exec.CommandContext(t.Context(), platform.Binary(t), "version", "--short-version").Output()
	if err != nil {
		t.Fatal(err)
	}
	old := strings.TrimSpace(string(out))
	now := skew.Parse(old)
	release := func(ahead int) string { return fmt.Sprintf("v%d.%d.0", now.Major, now.Minor+ahead) }
	c := New(t, Config{Programs: map[string]string{
		"faas-next": platform.BuildVersion(t, release(1)), "faas-after": platform.BuildVersion(t, release(2)),
	}})
	nodes := c.One(Build(t, "testdata")...)
	server, worker := nodes[0], nodes[1]
	if err := deploy(t.Context(), server, 6, nil); err != nil {
		t.Fatal(err)
	}
	client := c.Client.HTTPClient()
	for _, n := range nodes {
		platform.Eventually(t, patience, func() error { return call(t.Context(), client, n, 5*time.Second) })
	}

	worker.Terminate()
	worker.Become("faas-next")
	if said := worker.Refuses(); !strings.Contains(said, "upgrade the servers first") || !strings.Contains(said, release(1)) {
		t.Errorf("a node that is newer than its server says\n%s", said)
	}
	worker.Become("faas")
	worker.Start()
	platform.Eventually(t, patience, func() error { return server.allReady(t.Context(), len(nodes)) })

	var loads []*load.Load
	for i, n := range nodes {
		loads = append(loads, load.Start(t.Context(), load.Config{
			Gateways: []string{n.URL}, Client: client, Path: "/function/witness?sleep=5ms", Rate: syncRate, Name: fmt.Sprintf("u%d", i), Timeout: 20 * time.Second,
		}))
	}
	served := func(n int) {
		t.Helper()
		for _, l := range loads {
			was := len(l.Calls())
			platform.Eventually(t, patience, func() error {
				if more := len(l.Calls()) - was; more < n {
					return fmt.Errorf("%d more calls, want %d", more, n)
				}
				return nil
			})
		}
	}
	turn := func(n *Node, program string, want ...string) {
		t.Helper()
		n.Terminate()
		n.Become(program)
		n.Start()
		platform.Eventually(t, patience, func() error { return versions(t, server, want) })
		served(100)
	}
	served(100)
	turn(server, "faas-next", release(1), old, old)
	turn(nodes[1], "faas-next", release(1), release(1), old)
	turn(nodes[2], "faas-next", release(1), release(1), release(1))
	for i, l := range loads {
		v := load.Judge(l.Stop(), 0)
		if v.Failed > 0 || v.Sent < 500 {
			t.Errorf("through %s %d of %d calls failed: %v", nodes[i].Host.Name, v.Failed, v.Sent, v.Faults)
		}
		t.Logf("through %s: %d calls, none of them for %v at most", nodes[i].Host.Name, v.Sent, v.Gap)
	}

	// A node of the former version works with this server, not with the next.
	worker.Terminate()
	worker.Become("faas")
	worker.Start()
	platform.Eventually(t, patience, func() error { return versions(t, server, []string{release(1), old, release(1)}) })
	server.Terminate()
	server.Become("faas-after")
	server.Start()
	platform.Eventually(t, patience, func() error {
		if log := worker.Log(40); !strings.Contains(log, "upgrade the node") || !strings.Contains(log, release(2)) {
			return fmt.Errorf("a node that has become too old says\n%s", log)
		}
		return server.allReady(t.Context(), len(nodes)-1)
	})
	worker.Terminate()
	if said := worker.Refuses(); !strings.Contains(said, "upgrade the node") || !strings.Contains(said, release(2)) {
		t.Errorf("a node that is too old says\n%s", said)
	}
	worker.Become("faas-next")
	worker.Start()
	platform.Eventually(t, patience, func() error { return server.allReady(t.Context(), len(nodes)) })
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
