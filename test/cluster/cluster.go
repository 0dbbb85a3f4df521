// Package cluster makes a cluster of hosts on one machine: each has namespaces,
// containers and a disk of its own, and can be frozen or cut off from power and
// network while its platform works.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/podsnap/podsnap/test/cluster/host"
	"github.com/podsnap/podsnap/test/cluster/hub"
	"github.com/podsnap/podsnap/test/platform"
)

// Main has to be the first thing that a program, or TestMain, does which makes
// clusters.
func Main() { host.Main() }

// Config says what a cluster is made of.
type Config struct {
	Hosts int    // 0 is 3
	Seed  uint64 // of what the hub loses and duplicates

	// Programs are on each host besides faas: name in PATH to path on this machine.
	Programs map[string]string
}

// Cluster are hosts that are joined by a hub, all switched on. Nothing runs on
// them yet.
type Cluster struct {
	Hub    *hub.Hub
	Hosts  []*host.Host // h0, h1, …
	Client *host.Host   // one more, without a platform: from where others are called

	t      platform.T
	dir    string
	groups *host.Groups
	nodes  []*Node
}

// patience is how long anything is waited for that does not take long.
const patience = 60 * time.Second

// New makes a cluster, which ends with its test. It ends too when the program is
// killed.
func New(t platform.T, c Config) *Cluster {
	t.Helper()
	platform.NeedRoot(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("hosts are joined by TAP devices: %v", err)
	}
	n := c.Hosts
	if n == 0 {
		n = 3
	}
	dir, err := os.MkdirTemp("", "podsnap-cluster-")
	if err != nil {
		t.Fatal(err)
	}
	groups, err := host.NewGroups(filepath.Base(dir))
	if err != nil {
		t.Fatal(err)
	}
	cleaner, err := host.StartCleaner(groups, dir)
	if err != nil {
		t.Fatal(err)
	}
	cl := &Cluster{t: t, dir: dir, groups: groups}
	t.Cleanup(func() { cl.end(cleaner) })

	members := []hub.Member{member("client", 100)}
	for i := range n {
		members = append(members, member(fmt.Sprintf("h%d", i), byte(10+i)))
	}
	cl.Hub = hub.New(c.Seed, members...)
	programs := map[string]string{"faas": platform.Binary(t)}
	maps.Copy(programs, c.Programs)
	for _, m := range members {
		h, err := host.New(host.Config{
			Name: m.Name, MAC: m.MAC, Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte(m.MAC[2:])), 24),
			Dir: filepath.Join(dir, m.Name), Groups: groups, Hub: cl.Hub, Programs: programs,
		})
		if err != nil {
			t.Fatal(err)
		}
		if m.Name == "client" {
			cl.Client = h
		} else {
			cl.Hosts = append(cl.Hosts, h)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, h := range cl.all() {
		if err := h.Boot(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return cl
}

// member is the host with the address 10.77.0.last; its Ethernet address has the
// other one in it.
func member(name string, last byte) hub.Member {
	return hub.Member{Name: name, MAC: net.HardwareAddr{2, 0, 10, 77, 0, last}}
}

func (c *Cluster) all() []*host.Host {
	out := c.Hosts
	if c.Client != nil {
		out = append(slices.Clip(out), c.Client)
	}
	return out
}

func (c *Cluster) end(cleaner *host.Cleaner) {
	if c.t.Failed() {
		for _, n := range c.nodes {
			c.t.Logf("the log of %s:\n%s", n.Host.Name, n.Log(80))
		}
	}
	for _, h := range c.all() {
		if err := h.PowerOff(); err != nil {
			c.t.Errorf("%v", err)
		}
	}
	if c.Hub != nil {
		c.Hub.Close()
	}
	if err := errors.Join(c.groups.Remove(), os.RemoveAll(c.dir), cleaner.Close()); err != nil {
		c.t.Errorf("%v", err)
	}
}

// logTail is the end of a file.
func logTail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > 1<<20 {
		_, _ = f.Seek(-(1 << 20), io.SeekEnd)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}
