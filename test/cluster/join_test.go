package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/test/platform"
)

// one makes one cluster of all hosts: h0 is the server, the others join it.
func (c *Cluster) one(t *testing.T, images []string) []*Node {
	t.Helper()
	for _, h := range c.Hosts {
		c.Images(h, images...)
	}
	nodes := c.Servers(c.Hosts[:1])
	for _, h := range c.Hosts[1:] {
		nodes = append(nodes, c.Join(h, nodes[0]))
	}
	for _, n := range nodes[1:] {
		n.Await()
	}
	platform.Eventually(t, patience, func() error { return allReady(t.Context(), nodes[0], len(nodes)) })
	return nodes
}

// allReady tells what is wrong with so many nodes of a server.
func allReady(ctx context.Context, server *Node, want int) error {
	all, err := api.Items[*corev1.Node](ctx, server.Objects(), api.Nodes, api.ListOptions{})
	if err != nil {
		return err
	}
	ready := 0
	for _, n := range all {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	if ready != want {
		return fmt.Errorf("%d nodes are ready, want %d", ready, want)
	}
	return nil
}

// spread tells how many ready replicas of the witness function each node has.
func spread(ctx context.Context, server *Node) (map[string]int, error) {
	all, err := api.Items[*corev1.Pod](ctx, server.Objects(), api.Pods, api.ListOptions{Namespace: "openfaas-fn"})
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, p := range all {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
				out[p.Spec.NodeName]++
			}
		}
	}
	return out, nil
}

// Two hosts join a third one; a function has replicas on all of them, and each
// gateway calls each.
func TestJoin(t *testing.T) {
	leaveNothing(t)
	c := New(t, Config{})
	start := time.Now()
	nodes := c.one(t, Build(t, "testdata"))
	t.Logf("three nodes answer after %.1f s", time.Since(start).Seconds())
	if err := deploy(t.Context(), nodes[0], 6, nil); err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, patience, func() error {
		on, err := spread(t.Context(), nodes[0])
		if err == nil && (len(on) != 3 || on["h0"]+on["h1"]+on["h2"] != 6) {
			err = fmt.Errorf("6 replicas are spread like this: %v", on)
		}
		return err
	})
	client := c.Client.HTTPClient()
	for _, n := range nodes {
		for range 30 {
			if err := call(t.Context(), client, n, 5*time.Second); err != nil {
				t.Errorf("through %s: %v", n.Host.Name, err)
				break
			}
		}
	}
	t.Logf("each gateway calls each replica after %.1f s", time.Since(start).Seconds())
}
