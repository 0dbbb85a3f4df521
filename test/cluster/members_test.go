package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/test/cluster/load"
	"github.com/podsnap/podsnap/test/platform"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// comes starts a server on a host that joins those of another one.
func (c *Cluster) comes(h, other *Node) {
	c.t.Helper()
	token, err := os.ReadFile(other.Host.Disk("podsnap", "auth", "server-token"))
	if err != nil {
		c.t.Fatal(err)
	}
	h.API, h.Metrics = "https://"+h.Host.IP()+":6443", "http://"+h.Host.IP()+":8082"
	h.args = []string{
		"faas", "server", "--node-name", h.Host.Name, "--node-ip", h.Host.IP(), "--join", other.API, "--server-token", strings.TrimSpace(string(token)),
		"--listen", h.Host.IP() + ":8080", "--api-listen", h.Host.IP() + ":6443", "--metrics-listen", h.Host.IP() + ":8082",
	}
	h.Start()
}

// members tells what is wrong with the members of the stores, which are to be these.
func (n *Node) members(ctx context.Context, status string, want ...*Node) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	all, err := join.AskMembers(ctx, n.admin(), n.API)
	if err != nil {
		return err
	}
	for _, w := range want {
		if !slices.ContainsFunc(all, func(m join.Member) bool {
			return m.Name == w.Host.Name && m.Address == w.Host.IP() && m.Status == status
		}) {
			return fmt.Errorf("%s is not %s: %+v", w.Host.Name, status, all)
		}
	}
	if len(all) != len(want) {
		return fmt.Errorf("%d members, want %d: %+v", len(all), len(want), all)
	}
	return nil
}

// One of three servers is lost with its disk, another machine takes its place while
// the others serve, then one more of the first is lost: nothing is missing.
func TestServerReplaced(t *testing.T) {
	images := Build(t, "testdata")
	c := New(t, Config{Hosts: 4})
	for _, h := range c.Hosts {
		c.Images(h, images...)
	}
	w := newWitness(t, c)
	servers := c.Together(c.Hosts[:3])
	leader := c.Leader(servers)
	standing := slices.DeleteFunc(slices.Clone(servers), func(n *Node) bool { return n == leader })
	lost, keep := standing[0], standing[1]
	client := c.Client.HTTPClient()
	if err := deploy(t.Context(), leader, 2, map[string]string{"WITNESS": w.URL}); err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, patience, func() error { return call(t.Context(), client, keep, 5*time.Second) })
	put := func(through *Node, name string) {
		t.Helper()
		platform.Eventually(t, patience, func() error {
			_, err := through.Objects().Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
			return err
		})
	}
	put(leader, "three")
	if out, err := leader.Faas(t.Context(), "", "server", "remove", lost.Host.Name); err == nil || !strings.Contains(out+err.Error(), "it runs") {
		t.Errorf("a server that runs is removed: %q, %v", out, err)
	}
	queued := load.Start(t.Context(), load.Config{
		Gateways: []string{keep.URL}, Client: client, Path: "/async-function/witness?tell", Rate: asyncRate, Timeout: 20 * time.Second, Name: "a",
		Resend: true, Want: http.StatusAccepted,
	})
	begun := time.Now()
	if err := errors.Join(lost.Host.PowerOff(), os.RemoveAll(filepath.Dir(lost.Host.Disk("podsnap", "auth")))); err != nil {
		t.Fatal(err)
	}
	if _, err := keep.Faas(t.Context(), "", "server", "remove", lost.Host.Name); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s is removed after %.1f s", lost.Host.Name, time.Since(begun).Seconds())
	put(keep, "two")
	fourth := c.node(c.Hosts[3])
	c.comes(fourth, keep)
	t.Logf("%s serves after %.1f s", fourth.Host.Name, time.Since(begun).Seconds())
	platform.Eventually(t, patience, func() error { return fourth.members(t.Context(), join.MemberReady, leader, keep, fourth) })
	t.Logf("%s has all copies after %.1f s", fourth.Host.Name, time.Since(begun).Seconds())
	put(fourth, "again-three")

	if err := leader.Host.PowerOff(); err != nil { // another one of the first
		t.Fatal(err)
	}
	c.Leader([]*Node{keep, fourth})
	for _, name := range []string{"three", "two", "again-three"} {
		platform.Eventually(t, patience, func() error {
			_, err := fourth.Objects().Get(t.Context(), api.ConfigMaps, "default", name)
			return err
		})
	}
	put(fourth, "again-two")
	platform.Eventually(t, patience, func() error {
		fns, err := fourth.Client.Functions(t.Context(), "")
		if err == nil && len(fns) != 1 {
			err = fmt.Errorf("functions: %v", fns)
		}
		return err
	})
	platform.Eventually(t, patience, func() error { return call(t.Context(), client, fourth, 5*time.Second) })
	accepted := load.Accepted(queued.Stop())
	platform.Eventually(t, patience, func() error { return w.all(accepted) })
	t.Logf("%d accepted calls are made after %.1f s", len(accepted), time.Since(begun).Seconds())

	fourth.Kill() // it finds its way back with the flags that it came with
	fourth.Start()
	c.Leader([]*Node{keep, fourth})
	put(fourth, "last")
}
