package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/test/platform"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Three servers, of which one leads, and a node: any of them serves everything, and
// when the leader dies another one goes on with what there is.
func TestThreeServers(t *testing.T) {
	images := Build(t, "testdata")
	c := New(t, Config{Hosts: 4})
	for _, h := range c.Hosts {
		c.Images(h, images...)
	}
	servers := c.Together(c.Hosts[:3])
	leader := c.Leader(servers)
	others := slices.DeleteFunc(slices.Clone(servers), func(n *Node) bool { return n == leader })
	node := c.Join(c.Hosts[3], others[0]) // it is told of one that does not lead
	all := append(slices.Clone(servers), node)
	platform.Eventually(t, patience, func() error { return others[1].allReady(t.Context(), 4) })

	if err := deploy(t.Context(), others[0], 4, nil); err != nil {
		t.Fatal(err)
	}
	client := c.Client.HTTPClient()
	serve := func(when string, nodes ...*Node) {
		t.Helper()
		for _, n := range nodes {
			platform.Eventually(t, 10*time.Second, func() error { return call(t.Context(), client, n, 5*time.Second) })
			if fns, err := n.Client.Functions(t.Context(), ""); err != nil || len(fns) != 1 {
				t.Errorf("%s, the functions through %s: %v, %v", when, n.Host.Name, fns, err)
			}
		}
	}
	platform.Eventually(t, patience, func() error {
		on, err := spread(t.Context(), others[0])
		if err == nil && len(on) != 4 {
			err = fmt.Errorf("replicas are on %v, want one on each machine", on)
		}
		return err
	})
	serve("at first", all...)
	put := func(through *Node, name string) {
		t.Helper()
		if _, err := through.Objects().Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}); err != nil {
			t.Errorf("write through %s: %v", through.Host.Name, err)
		}
	}
	put(others[0], "before")
	kinds := &anyServer{t: t}
	kinds.begin(others[0], others[1], node)

	leader.Kill()
	next := c.follows(others, leader)
	put(next, "after")
	for _, n := range others {
		for _, name := range []string{"before", "after"} {
			if _, err := n.Objects().Get(t.Context(), api.ConfigMaps, "default", name); err != nil {
				t.Errorf("what was written %s, through %s: %v", name, n.Host.Name, err)
			}
		}
	}
	serve("after the end of the leader", append(others, node)...)
	kinds.still(others...)

	leader.Start() // it stands by
	if now := c.Leader(servers); now != next {
		t.Errorf("%s leads, want %s still", now.Host.Name, next.Host.Name)
	}
	serve("with all again", all...)

	next.Terminate() // and gives its place away
	last := c.follows(slices.DeleteFunc(slices.Clone(servers), func(n *Node) bool { return n == next }), next)
	serve("after the end of the second", last, node)
}

// follows is who of the nodes leads after another one, which has just ended.
func (c *Cluster) follows(nodes []*Node, ended *Node) *Node {
	c.t.Helper()
	watch, begun := platform.StartWatch(), time.Now()
	next := c.Leader(nodes)
	took := watch.Spent()
	c.t.Logf("%s leads %.2f s after the end of %s", next.Host.Name, time.Since(begun).Seconds(), ended.Host.Name)
	if took > 5*time.Second {
		c.t.Errorf("%s leads %v after the end of %s, want 5s", next.Host.Name, took, ended.Host.Name)
	}
	return next
}
