package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/cluster/host"
	"github.com/podsnap/podsnap/test/leak"
	"github.com/podsnap/podsnap/test/platform"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// leaveNothing has the test fail when there is more in the kernel at its end
// than there is now. It has to be called before anything else.
func leaveNothing(t *testing.T) {
	t.Helper()
	before, err := leak.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		after, err := leak.Take()
		if err != nil {
			t.Fatal(err)
		}
		if left := after.Since(before); len(left) > 0 {
			t.Errorf("there is still:\n%s", strings.Join(left, "\n"))
		}
	})
}

// deploy has a node run the witness function, with so many replicas.
func deploy(ctx context.Context, n *Node, replicas int, env map[string]string) error {
	r := fmt.Sprint(replicas)
	_, err := n.Client.Deploy(ctx, openfaas.FunctionDeployment{
		Service: "witness", Image: "witness:latest", EnvVars: env,
		Labels: map[string]string{"com.openfaas.scale.min": r, "com.openfaas.scale.max": r},
	})
	if err != nil {
		return fmt.Errorf("deploy on %s: %w", n.Host.Name, err)
	}
	return nil
}

// call calls the witness function through a node's gateway.
func call(ctx context.Context, c *http.Client, n *Node, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.URL+"/function/witness", strings.NewReader("hello"))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(b) != "hello") {
		err = fmt.Errorf("%d %q", resp.StatusCode, b)
	}
	return err
}

// Three platforms on three hosts at the same time, which call each other's
// functions; then one is frozen, cut off, and has its power cut.
func TestThreeHosts(t *testing.T) {
	leaveNothing(t)
	c := New(t, Config{})
	images := Build(t, "testdata")
	for _, h := range c.Hosts {
		c.Images(h, images...)
	}
	start := time.Now()
	nodes := c.Servers(c.Hosts)
	t.Logf("three platforms answer after %.1f s", time.Since(start).Seconds())
	for _, n := range nodes {
		if err := deploy(t.Context(), n, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	clients := map[*host.Host]*http.Client{}
	for _, h := range c.all() {
		clients[h] = h.HTTPClient()
	}
	for _, from := range c.all() {
		for _, to := range nodes {
			if err := call(t.Context(), clients[from], to, 30*time.Second); err != nil {
				t.Errorf("from %s to %s: %v", from.Name, to.Host.Name, err)
			}
		}
	}
	t.Logf("each calls each after %.1f s", time.Since(start).Seconds())

	client, n0, n2 := clients[c.Client], nodes[0], nodes[2]
	back := func(n *Node) {
		t.Helper()
		platform.Eventually(t, patience, func() error { return call(t.Context(), client, n, time.Second) })
	}
	fails := func(n *Node) {
		t.Helper()
		if err := call(t.Context(), client, n, 300*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s, which can't answer: %v", n.Host.Name, err)
		}
	}
	if err := n2.Host.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	fails(n2)
	if err := n2.Host.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	back(n2)
	c.Hub.Partition("client", "h0")
	fails(n0)
	if err := call(t.Context(), clients[n2.Host], n0, time.Second); err != nil {
		t.Errorf("from h2, which is not cut off from h0: %v", err)
	}
	c.Hub.Heal()
	back(n0)
	n0.Kill()
	n0.Start()
	back(n0)

	if err := n2.Host.PowerOff(); err != nil {
		t.Fatal(err)
	}
	fails(n2)
	start = time.Now()
	if err := n2.Host.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	n2.Start()
	back(n2)
	t.Logf("after a power cut its function answers %.1f s after it is switched on", time.Since(start).Seconds())
	back(n0)
}
