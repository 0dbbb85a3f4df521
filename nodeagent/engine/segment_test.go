package engine

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Sandboxes of a segment hear one another's broadcast, over a restart of the agent
// too.
func TestSegment(t *testing.T) {
	n := newNode(t)
	start := func(name string) runtime.Sandbox {
		t.Helper()
		sb, err := n.StartSandbox(t.Context(), runtime.SandboxSpec{UID: types.UID("uid-" + name), Namespace: "shop", Name: name, Hostname: name, Segment: "shop"})
		if err != nil {
			t.Fatal(err)
		}
		return sb
	}
	a, b := start("a"), start("b")
	hears(t, a, b)
	n.stop()
	hears(t, b, a)
	n.startEngine()
	hears(t, a, b)
	c := start("c")
	hears(t, a, c)
	hears(t, c, b)
	if err := n.RemoveSandbox(t.Context(), a.ID); err != nil {
		t.Error(err)
	}
	hears(t, b, c)
}

// hears has one sandbox send to all of its link, and another one hear it.
func hears(t *testing.T, from, to runtime.Sandbox) {
	t.Helper()
	inside := func(sb runtime.Sandbox, f func() error) {
		t.Helper()
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", sb.Pid))
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		if err := network.Inside(ns, f); err != nil {
			t.Fatal(err)
		}
	}
	var ear net.PacketConn
	inside(to, func() (err error) {
		ear, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", ":9000")
		return err
	})
	defer ear.Close()
	inside(from, func() error {
		c, err := net.Dial("udp4", "255.255.255.255:9000")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("all"))
		return err
	})
	if err := ear.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, by, err := ear.ReadFrom(make([]byte, 10))
	if err != nil {
		t.Errorf("%s does not hear %s: %v", to.Name, from.Name, err)
	} else if host, _, _ := net.SplitHostPort(by.String()); host != from.IP {
		t.Errorf("%s hears %s, want %s", to.Name, host, from.IP)
	}
}
