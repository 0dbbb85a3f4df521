package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/test/cluster/hub"
	"github.com/podsnap/podsnap/test/cluster/load"
	"github.com/podsnap/podsnap/test/platform"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// fault is a row of the table: what is done to a platform under load.
type fault struct {
	name  string
	shape shape
	// through are the hosts whose gateways are called: the first one as long as it
	// answers. None is h0 alone.
	through []int
	// limit is the longest time after the fault, and at any moment, in which
	// calls do not succeed.
	limit time.Duration
	lost  int // most synchronous calls that may fail
	// do brings the fault about and takes it back. It returns when the cluster
	// could be as it was before.
	do func(t *testing.T, r *rig)
}

// shape is what the hosts are to each other.
type shape int

const (
	alone    shape = iota // two hosts with a platform each
	joined                // three hosts are one cluster, h0 its server
	together              // three servers are one cluster; the rig's first node is the one that leads
)

// both is the host that the fault happens to, and another one to go over to.
func both() []int { return []int{0, 1} }

// faults is the table. What happens, happens to h0, or to the node h1.
func faults() []fault {
	return []fault{
		{name: "nothing", limit: 500 * time.Millisecond, do: func(t *testing.T, _ *rig) { idle(t, time.Second) }},
		{name: "kill -9 server, started again", limit: 3 * time.Second, lost: 30, do: func(_ *testing.T, r *rig) { r.restart(0) }},
		{name: "kill -9 server, two gateways", through: both(), limit: time.Second, lost: 30, do: func(_ *testing.T, r *rig) { r.restart(0) }},
		{name: "SIGTERM server, started again", limit: 4 * time.Second, do: func(_ *testing.T, r *rig) {
			r.nodes[0].Terminate()
			r.nodes[0].Start()
		}},
		{name: "kill -9 store", limit: time.Second, do: func(t *testing.T, r *rig) { r.kill(t, Store) }},
		{name: "kill -9 containerd", limit: time.Second, do: func(t *testing.T, r *rig) { r.kill(t, Containerd) }},
		{name: "kill -9 launcher", limit: 3 * time.Second, lost: 30, do: func(t *testing.T, r *rig) { r.kill(t, Launcher) }},
		{name: "kill -9 a replica", limit: time.Second, lost: 30, do: func(t *testing.T, r *rig) { r.killReplica(t) }},
		{name: "store stands still 3 s", limit: time.Second, do: func(t *testing.T, r *rig) { r.stop(t, Store, 3*time.Second) }},
		{name: "containerd stands still 3 s", limit: time.Second, do: func(t *testing.T, r *rig) { r.stop(t, Containerd, 3*time.Second) }},
		{name: "host frozen 3 s", through: both(), limit: 2 * time.Second, lost: 250, do: func(t *testing.T, r *rig) { r.freeze(t, 0, 3*time.Second) }},
		{name: "client cut off 5 s", through: both(), limit: 2 * time.Second, lost: 250, do: func(t *testing.T, r *rig) {
			r.c.Hub.Partition("client", "h0")
			idle(t, 5*time.Second)
			r.c.Hub.Heal()
		}},
		{name: "answers cut off 5 s", through: both(), limit: 2 * time.Second, lost: 250, do: func(t *testing.T, r *rig) {
			r.c.Hub.Cut("h0", "client")
			idle(t, 5*time.Second)
			r.c.Hub.Heal()
		}},
		{name: "5 % loss, 5 % twice, 5 ms, for 5 s", limit: 3 * time.Second, do: func(t *testing.T, r *rig) {
			for _, d := range [][2]string{{"client", "h0"}, {"h0", "client"}} {
				r.c.Hub.Loss(d[0], d[1], 0.05)
				r.c.Hub.Duplicate(d[0], d[1], 0.05)
				r.c.Hub.Delay(d[0], d[1], 5*time.Millisecond)
			}
			idle(t, 5*time.Second)
			r.c.Hub.Heal()
		}},
		{name: "power cut, on again after 2 s", through: both(), limit: 2 * time.Second, lost: 250, do: func(t *testing.T, r *rig) {
			r.off(t, 0)
			idle(t, 2*time.Second)
			r.on(t, 0)
		}},
		{name: "power cut, one gateway", limit: 8 * time.Second, lost: 1000, do: func(t *testing.T, r *rig) {
			r.off(t, 0)
			r.on(t, 0)
		}},

		{name: "cluster: nothing", shape: joined, limit: 500 * time.Millisecond, do: func(t *testing.T, _ *rig) { idle(t, time.Second) }},
		{name: "cluster: kill -9 of a node's agent", shape: joined, limit: time.Second, do: func(_ *testing.T, r *rig) { r.restart(1) }},
		{name: "cluster: kill -9 server, calls through a node", shape: joined, through: []int{1}, limit: time.Second, do: func(_ *testing.T, r *rig) { r.restart(0) }},
		{name: "cluster: power cut of a node for good", shape: joined, limit: 2 * time.Second, lost: 30, do: func(t *testing.T, r *rig) {
			r.off(t, 1)
			r.replaced(t, 8*time.Second)
			r.on(t, 1)
		}},
		{name: "cluster: power cut of a node, on again at once", shape: joined, limit: 2 * time.Second, lost: 30, do: func(t *testing.T, r *rig) {
			r.off(t, 1)
			r.on(t, 1)
		}},
		{name: "cluster: node cut off 10 s and back", shape: joined, limit: 2 * time.Second, lost: 30, do: func(t *testing.T, r *rig) {
			r.c.Hub.Isolate("h1")
			r.replaced(t, 8*time.Second)
			idle(t, 5*time.Second)
			r.c.Hub.Heal()
		}},
		{name: "cluster: node frozen 10 s and back", shape: joined, limit: 2 * time.Second, lost: 30, do: func(t *testing.T, r *rig) { r.freeze(t, 1, 10*time.Second) }},
		{name: "cluster: node hears nothing for 10 s", shape: joined, limit: 2 * time.Second, lost: 30, do: func(t *testing.T, r *rig) {
			r.c.Hub.Cut(hub.All, "h1")
			idle(t, 10*time.Second)
			r.c.Hub.Heal()
		}},
		{name: "cluster: server cut off from its nodes 3 s", shape: joined, through: []int{1}, limit: 2 * time.Second, lost: 30, do: func(t *testing.T, r *rig) {
			r.c.Hub.Partition("h0", "h1")
			r.c.Hub.Partition("h0", "h2")
			idle(t, 3*time.Second)
			r.c.Hub.Heal()
		}},
		{name: "cluster: power cut of the server, calls through a node", shape: joined, through: []int{1}, limit: 2 * time.Second, lost: 30, do: func(t *testing.T, r *rig) {
			r.off(t, 0)
			r.on(t, 0)
		}},

		{name: "servers: nothing", shape: together, through: followers(), limit: 500 * time.Millisecond, do: func(t *testing.T, _ *rig) { idle(t, time.Second) }},
		{name: "servers: kill -9 of the leader", shape: together, through: followers(), limit: time.Second, do: func(t *testing.T, r *rig) {
			r.nodes[0].Kill()
			r.moved(t, 5*time.Second)
			r.nodes[0].Start()
		}},
		{name: "servers: SIGTERM of the leader", shape: together, through: followers(), limit: time.Second, do: func(t *testing.T, r *rig) {
			r.nodes[0].Terminate()
			r.moved(t, 5*time.Second)
			r.nodes[0].Start()
		}},
		{name: "servers: the leader stands still 8 s", shape: together, through: followers(), limit: time.Second, do: func(t *testing.T, r *rig) {
			r.nodes[0].Signal(unix.SIGSTOP)
			r.moved(t, 5*time.Second)
			idle(t, 5*time.Second)
			r.nodes[0].Signal(unix.SIGCONT)
		}},
		{name: "servers: kill -9 of the leader's etcd and NATS", shape: together, through: followers(), limit: time.Second, do: func(t *testing.T, r *rig) { r.kill(t, Store) }},
		{name: "servers: etcd and NATS of the leader stand still 8 s", shape: together, through: followers(), limit: time.Second, do: func(t *testing.T, r *rig) { r.stop(t, Store, 8*time.Second) }},
		{name: "servers: kill -9 of all etcd and NATS", shape: together, through: followers(), limit: time.Second, do: func(t *testing.T, r *rig) {
			for i := range r.nodes {
				r.killAt(t, i, Store)
			}
		}},
		{name: "servers: power cut of all three", shape: together, through: followers(), limit: 15 * time.Second, lost: 2000, do: func(t *testing.T, r *rig) {
			for i := range r.nodes {
				r.off(t, i)
			}
			for _, n := range r.nodes {
				if err := n.Host.Boot(t.Context()); err != nil {
					t.Fatal(err)
				}
				n.Launch() // none of them is up before most of them are
			}
			for _, n := range r.nodes {
				n.Await()
			}
		}},
		{name: "servers: the leader is cut off 10 s", shape: together, through: followers(), limit: 2 * time.Second, lost: 30, do: func(t *testing.T, r *rig) {
			r.c.Hub.Isolate(r.nodes[0].Host.Name)
			r.moved(t, 5*time.Second)
			idle(t, 5*time.Second)
			r.c.Hub.Heal()
		}},
		// Its kernel goes on to acknowledge what is sent to replicas there, so until
		// the node is lost nothing tells that they are.
		{name: "servers: the leader is frozen 10 s", shape: together, through: followers(), limit: 8 * time.Second, lost: 30, do: func(t *testing.T, r *rig) { r.freeze(t, 0, 10*time.Second) }},
		{name: "servers: power cut of the leader, on again", shape: together, through: followers(), limit: 2 * time.Second, lost: 30, do: func(t *testing.T, r *rig) {
			r.off(t, 0)
			r.moved(t, 5*time.Second)
			r.on(t, 0)
		}},
		{name: "servers: power cut of one that stands by, calls through the leader", shape: together, through: []int{0}, limit: 2 * time.Second, lost: 30, do: func(t *testing.T, r *rig) {
			r.off(t, 2)
			r.on(t, 2)
		}},
	}
}

// followers are the servers that do not lead.
func followers() []int { return []int{1, 2} }

// idle lets time go by.
func idle(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// rig is what faults happen to: hosts that all have the same function, and a
// client.
type rig struct {
	c        *Cluster
	nodes    []*Node
	servers  []*Node
	replicas int // of the function, on each server
	client   *http.Client
	witness  *witness
	took     time.Duration // until lost replicas were replaced, when that was waited for
}

func newRig(t *testing.T, as shape, images []string) *rig {
	t.Helper()
	hosts := 3
	if as == alone {
		hosts = 2
	}
	c := New(t, Config{Hosts: hosts, Seed: 1})
	r := &rig{c: c, client: c.Client.HTTPClient(), witness: newWitness(t, c), replicas: 2}
	for _, h := range c.Hosts {
		c.Images(h, images...)
	}
	switch as {
	case alone:
		r.nodes = c.Servers(c.Hosts)
		r.servers = r.nodes
	case joined:
		r.replicas = 6
		r.nodes = c.One()
		r.servers = r.nodes[:1]
	case together:
		r.replicas = 6
		r.nodes = c.Together(c.Hosts)
		leader := slices.Index(r.nodes, c.Leader(r.nodes))
		r.nodes[0], r.nodes[leader] = r.nodes[leader], r.nodes[0]
		r.servers = r.nodes[1:2] // one that no fault happens to
	}
	for _, h := range c.Hosts {
		// Imported: a start again does not do it once more.
		if err := os.RemoveAll(h.Disk("podsnap", "images")); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range r.servers {
		if err := deploy(t.Context(), n, r.replicas, map[string]string{"WITNESS": r.witness.URL}); err != nil {
			t.Fatal(err)
		}
	}
	r.back(t)
	return r
}

// back waits until everything is as it should be.
func (r *rig) back(t *testing.T) {
	t.Helper()
	for _, s := range r.servers {
		platform.Eventually(t, patience, func() error { return r.complete(t.Context(), s) })
	}
	if len(r.servers) < len(r.nodes) {
		platform.Eventually(t, patience, func() error { return r.servers[0].allReady(t.Context(), len(r.nodes)) })
	}
	for _, n := range r.nodes {
		platform.Eventually(t, patience, func() error { return call(t.Context(), r.client, n, 5*time.Second) })
	}
	// Nothing runs that is not wanted.
	platform.Eventually(t, patience, func() error {
		n := 0
		for _, h := range r.c.Hosts {
			all, err := h.Processes()
			if err != nil {
				return err
			}
			for _, p := range all {
				if p.Program == "handler" {
					n++
				}
			}
		}
		if want := r.replicas * len(r.servers); n != want {
			return fmt.Errorf("%d processes of the function run, want %d", n, want)
		}
		return nil
	})
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

// complete tells what a server's function lacks.
func (r *rig) complete(ctx context.Context, s *Node) error {
	on, err := spread(ctx, s)
	n := 0
	for _, ready := range on {
		n += ready
	}
	if err == nil && n != r.replicas {
		err = fmt.Errorf("%s has %d replicas that are ready, want %d: %v", s.Host.Name, n, r.replicas, on)
	}
	return err
}

// replaced waits until the replicas of a node that is lost are elsewhere.
func (r *rig) replaced(t *testing.T, limit time.Duration) {
	t.Helper()
	start := time.Now()
	platform.Eventually(t, patience, func() error {
		on, err := spread(t.Context(), r.servers[0])
		if err == nil && on["h0"]+on["h2"] != r.replicas {
			err = fmt.Errorf("replicas are spread like this: %v", on)
		}
		return err
	})
	if r.took = time.Since(start); r.took > limit {
		t.Errorf("replicas were replaced after %s, want %s", r.took, limit)
	}
}

// moved waits until another server leads than the one that did.
func (r *rig) moved(t *testing.T, limit time.Duration) {
	t.Helper()
	begun := time.Now()
	now := r.c.Leader(r.nodes[1:])
	if r.took = time.Since(begun); r.took > limit {
		t.Errorf("%s leads after %v, want %v", now.Host.Name, r.took, limit)
	}
}

// restart kills a node's process and starts it again.
func (r *rig) restart(i int) {
	r.nodes[i].Kill()
	r.nodes[i].Start()
}

func (r *rig) off(t *testing.T, i int) {
	t.Helper()
	if err := r.nodes[i].Host.PowerOff(); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) on(t *testing.T, i int) {
	t.Helper()
	if err := r.nodes[i].Host.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.nodes[i].Start()
}

func (r *rig) freeze(t *testing.T, i int, d time.Duration) {
	t.Helper()
	if err := r.nodes[i].Host.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	idle(t, d)
	if err := r.nodes[i].Host.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// kill kills a process of the first node's platform, which starts it again.
func (r *rig) kill(t *testing.T, p Part) {
	t.Helper()
	r.killAt(t, 0, p)
}

func (r *rig) killAt(t *testing.T, i int, p Part) {
	t.Helper()
	was := r.nodes[i].Process(p)
	if err := was.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, patience, func() error {
		if now := r.nodes[i].Process(p); now.Pid == was.Pid {
			return fmt.Errorf("%s is the killed one", p)
		}
		return nil
	})
}

// stop has a process of h0's platform stand still for a time.
func (r *rig) stop(t *testing.T, p Part, d time.Duration) {
	t.Helper()
	proc := r.nodes[0].Process(p)
	if err := proc.Kill(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	idle(t, d)
	if err := proc.Kill(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// killReplica kills one of the function's two processes on h0.
func (r *rig) killReplica(t *testing.T) {
	t.Helper()
	all, err := r.nodes[0].Host.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.Program == "handler" {
			if err := p.Kill(unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no process is a replica's: %v", all)
}

// row is what is told of a fault.
type row struct {
	Case      string  `json:"case"`
	Sent      int     `json:"sent"`
	Failed    int     `json:"failed"`
	Recovered float64 `json:"recovered_s"`
	Gap       float64 `json:"gap_s"` // the longest time without a success
	Limit     float64 `json:"limit"`
	Accepted  int     `json:"accepted"`             // asynchronous calls
	Missing   int     `json:"missing"`              // of them: not executed
	Twice     int     `json:"twice"`                // executed more than once, which may be
	Replaced  float64 `json:"replaced_s,omitempty"` // until all replicas were there without the node, or another server led
	Pass      bool    `json:"pass"`

	faults map[string]int
}

const (
	syncRate  = 100 // calls a second
	asyncRate = 20
	before    = 2 * time.Second // of load before a fault
	after     = 3 * time.Second // without a failed call, when a fault is over
)

// suffer brings a fault about under load.
func (r *rig) suffer(t *testing.T, f fault, round int) row {
	t.Helper()
	timeout := 10 * time.Second
	if len(f.through) > 1 {
		timeout = 1500 * time.Millisecond // what may be in vain is not waited for that long
	}
	var gateways []string
	for _, i := range f.through {
		gateways = append(gateways, r.nodes[i].URL)
	}
	if len(gateways) == 0 {
		gateways = []string{r.nodes[0].URL}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := load.Start(ctx, load.Config{
		Gateways: gateways, Client: r.client, Path: "/function/witness?sleep=5ms", Rate: syncRate, Timeout: timeout, Name: fmt.Sprintf("s%d", round),
	})
	queued := load.Start(ctx, load.Config{
		Gateways: gateways, Client: r.client, Path: "/async-function/witness?tell", Rate: asyncRate, Timeout: 20 * time.Second, Name: fmt.Sprintf("a%d", round),
		Resend: true, Want: http.StatusAccepted,
	})
	wait := func(limit time.Duration, what string, check func() bool) {
		t.Helper()
		platform.Eventually(t, limit, func() error {
			if !check() {
				return fmt.Errorf("%s: %v", what, load.Judge(calls.Calls(), 0).Faults)
			}
			return nil
		})
	}
	wait(20*time.Second, "the load does not begin", func() bool { return load.Quiet(calls.Calls(), calls.Now()) > before })
	at := calls.Now()
	f.do(t, r)
	done := calls.Now()
	wait(patience, "calls go on to fail", func() bool {
		return calls.Now() > done+after && load.Quiet(calls.Calls(), calls.Now()) > after
	})
	v := load.Judge(calls.Stop(), at)
	accepted := load.Accepted(queued.Stop())
	r.back(t)
	// Calls whose function was gone are tried again after some time.
	platform.Eventually(t, 2*patience, func() error { return r.witness.all(accepted) })
	missing, twice := r.witness.missing(accepted)
	return row{
		Case: f.name, Sent: v.Sent, Failed: v.Failed, Recovered: v.Recovered.Seconds(), Gap: v.Gap.Seconds(), Limit: f.limit.Seconds(),
		Accepted: len(accepted), Missing: missing, Twice: twice, Replaced: r.took.Seconds(), faults: v.Faults,
		Pass: v.Whole && v.Recovered <= f.limit && v.Gap <= f.limit && v.Failed <= f.lost && missing == 0 && len(accepted) > asyncRate,
	}
}

// TestFaults is the table of faults: `make cluster-test`. CLUSTER_FAULTS is a
// part of the names of those that are wanted, or "all".
func TestFaults(t *testing.T) {
	want := os.Getenv("CLUSTER_FAULTS")
	if want == "" {
		t.Skip("the table of faults takes minutes: make cluster-test")
	}
	platform.NeedRoot(t)
	images := Build(t, "testdata")
	var rows []row
	for i, f := range faults() {
		if want != "all" && !strings.Contains(f.name, want) {
			continue
		}
		got := row{Case: f.name, Limit: f.limit.Seconds()}
		t.Run(f.name, func(t *testing.T) {
			got = newRig(t, f.shape, images).suffer(t, f, i)
			if !got.Pass {
				t.Errorf("not as good as it has to be: %+v", got)
			}
			for _, why := range slices.Sorted(maps.Keys(got.faults)) {
				t.Logf("%d calls: %s", got.faults[why], why)
			}
		})
		rows = append(rows, got)
	}
	tell(t, rows)
}

// tell prints the table and writes it to latest.json.
func tell(t *testing.T, rows []row) {
	t.Helper()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "case\tsent\tfailed\trecovered_s\tgap_s\tlimit\taccepted\tmissing\ttwice\treplaced_s\tpass\t")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%d\t%.2f\t%.2f\t%g\t%d\t%d\t%d\t%.2f\t%t\t\n", r.Case, r.Sent, r.Failed, r.Recovered, r.Gap, r.Limit, r.Accepted, r.Missing, r.Twice, r.Replaced, r.Pass)
	}
	w.Flush()
	t.Logf("\n%s", b.String())
	out, err := json.MarshalIndent(rows, "", "  ")
	if err == nil {
		err = os.WriteFile("latest.json", append(out, '\n'), 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}
