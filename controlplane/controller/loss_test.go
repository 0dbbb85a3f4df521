package controller_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/podstate"
	corev1 "k8s.io/api/core/v1"
)

func (c *cluster) tainted(name string) error {
	n, err := api.Get[*corev1.Node](c.ctx, c, api.Nodes, "", name)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeUnreachable && t.Effect == corev1.TaintEffectNoExecute
	}) {
		return nil
	}
	return errors.New("the node is not tainted")
}

func TestNodeLossAndReturn(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		a := c.node("a")
		c.node("b")
		c.create(deployment("web", "i:1", 4))
		c.eventually("pods", c.complete(4))
		c.pass(10 * time.Second)
		a.die()
		begin := time.Now()
		c.eventually("lost", func() error { return c.tainted("a") })
		if d := time.Since(begin); d < 3*time.Second || d > 4500*time.Millisecond {
			t.Errorf("declared lost after %v, want about 4 s", d)
		}
		for _, p := range c.pods("default") {
			if p.Spec.NodeName == "a" && podstate.Ready(p) {
				t.Errorf("pod %s of the lost node says it is ready", p.Name)
			}
		}
		c.eventually("replaced", func() error {
			for _, p := range c.pods("default") {
				if p.Spec.NodeName != "b" {
					return fmt.Errorf("pod %s is on node %q", p.Name, p.Spec.NodeName)
				}
			}
			return c.complete(4)()
		})
		if d := time.Since(begin); d > 8*time.Second {
			t.Errorf("all replicas were back after %v", d)
		}
		a.start()
		c.eventually("return", func() error {
			n, err := api.Get[*corev1.Node](c.ctx, c, api.Nodes, "", "a")
			if err != nil {
				return err
			}
			if len(n.Spec.Taints) > 0 || n.Status.Conditions[0].Status != corev1.ConditionTrue {
				return fmt.Errorf("taints %v, condition %v", n.Spec.Taints, n.Status.Conditions[0].Status)
			}
			return nil
		})
	})
}

func TestNodeThatComesBackInTimeKeepsItsPods(t *testing.T) {
	start(t, controller.Config{LostAfter: 30 * time.Second}, func(c *cluster) {
		a := c.node("a")
		c.create(deployment("web", "i:1", 2))
		c.eventually("pods", c.complete(2))
		a.die()
		c.eventually("lost", func() error { return c.tainted("a") })
		c.pass(5 * time.Second)
		a.start()
		c.eventually("in service again", c.complete(2))
		c.pass(time.Minute)
		if n := c.store.creates.Load(); n != 2 {
			t.Errorf("%d pods were created: the two were there all the time", n)
		}
	})
}

// A store that takes no writes is no reason to empty nodes, nor is the moment
// after.
func TestStoreOutageLosesNoNode(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		c.node("b")
		c.create(deployment("web", "i:1", 4))
		c.eventually("pods", c.complete(4))
		for _, outage := range []time.Duration{time.Second, 3 * time.Second, 5 * time.Second, time.Minute} {
			c.store.down.Store(true)
			c.pass(outage)
			c.store.down.Store(false)
			c.pass(15 * time.Second)
			if c.tainted("a") == nil || c.tainted("b") == nil {
				t.Errorf("after an outage of %v a node is tainted", outage)
			}
		}
		if n := c.store.creates.Load(); n != 4 {
			t.Errorf("%d pods were created, want the four", n)
		}
	})
}

func TestPodsOfARemovedNode(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		a := c.node("a")
		c.node("b")
		c.create(deployment("web", "i:1", 4))
		c.eventually("pods", c.complete(4))
		a.die()
		if _, err := c.Delete(c.ctx, api.Nodes, "", "a", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("moved", func() error {
			for _, p := range c.pods("default") {
				if p.Spec.NodeName != "b" {
					return fmt.Errorf("pod %s is on node %q", p.Name, p.Spec.NodeName)
				}
			}
			return c.complete(4)()
		})
	})
}

// A node whose lease was lost with a server gets another one, which it renews; one
// that does not is lost.
func TestLostLease(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		a := c.node("a")
		c.create(deployment("web", "i:1", 1))
		c.eventually("one", c.complete(1))
		take := func() {
			if _, err := c.Delete(c.ctx, api.Leases, api.SystemNamespace, "a", api.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		a.die() // so that it does not make it itself
		take()
		took := c.eventually("a lease", func() error {
			_, err := c.Get(c.ctx, api.Leases, api.SystemNamespace, "a")
			return err
		})
		if took > 5*time.Second {
			t.Errorf("the lease was there after %v", took)
		}
		took = c.eventually("the node is lost", func() error {
			n, err := api.Get[*corev1.Node](c.ctx, c, api.Nodes, "", "a")
			if err == nil && !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown
			}) {
				err = fmt.Errorf("its conditions are %+v", n.Status.Conditions)
			}
			return err
		})
		if took < 3*time.Second || took > 6*time.Second {
			t.Errorf("the node was lost %v after it got a lease, want some 4 s", took)
		}
	})
}
