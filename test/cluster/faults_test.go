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

	"github.com/podsnap/podsnap/test/cluster/load"
	"github.com/podsnap/podsnap/test/platform"
	"golang.org/x/sys/unix"
)

// fault is a row of the table: what is done to a platform under load.
type fault struct {
	name  string
	needs string // what has to be there before it can be done; "" is nothing
	// over has the client another gateway to go over to. Without, it has only
	// the one that the fault happens to.
	over bool
	// limit is the longest time after the fault, and at any moment, in which
	// calls do not succeed.
	limit time.Duration
	lost  int // most synchronous calls that may fail
	// do brings the fault about and takes it back. It returns when the cluster
	// could be as it was before.
	do func(t *testing.T, r *rig)
}

const joining = "nodes that join a server (faas agent join)"

// faults is the table. What happens, happens to h0.
func faults() []fault {
	for1 := func(t *testing.T, d time.Duration) {
		t.Helper()
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
	return []fault{
		{name: "nothing", limit: 500 * time.Millisecond, do: func(t *testing.T, _ *rig) { for1(t, time.Second) }},
		{name: "kill -9 server, started again", limit: 3 * time.Second, lost: 30, do: func(_ *testing.T, r *rig) {
			r.nodes[0].Kill()
			r.nodes[0].Start()
		}},
		{name: "kill -9 server, two gateways", over: true, limit: time.Second, lost: 30, do: func(_ *testing.T, r *rig) {
			r.nodes[0].Kill()
			r.nodes[0].Start()
		}},
		{name: "SIGTERM server, started again", limit: 3 * time.Second, do: func(_ *testing.T, r *rig) {
			r.nodes[0].Terminate()
			r.nodes[0].Start()
		}},
		{name: "kill -9 store", limit: time.Second, do: func(t *testing.T, r *rig) { r.kill(t, Store) }},
		{name: "kill -9 containerd", limit: time.Second, do: func(t *testing.T, r *rig) { r.kill(t, Containerd) }},
		{name: "kill -9 launcher", limit: 3 * time.Second, lost: 30, do: func(t *testing.T, r *rig) { r.kill(t, Launcher) }},
		{name: "kill -9 a replica", limit: time.Second, lost: 30, do: func(t *testing.T, r *rig) { r.killReplica(t) }},
		{name: "store stands still 3 s", limit: time.Second, do: func(t *testing.T, r *rig) { r.stop(t, Store, func() { for1(t, 3*time.Second) }) }},
		{name: "containerd stands still 3 s", limit: time.Second, do: func(t *testing.T, r *rig) { r.stop(t, Containerd, func() { for1(t, 3*time.Second) }) }},
		{name: "host frozen 3 s", over: true, limit: 2 * time.Second, lost: 250, do: func(t *testing.T, r *rig) {
			if err := r.nodes[0].Host.Freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
			for1(t, 3*time.Second)
			if err := r.nodes[0].Host.Thaw(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "client cut off 5 s", over: true, limit: 2 * time.Second, lost: 250, do: func(t *testing.T, r *rig) {
			r.c.Hub.Partition("client", "h0")
			for1(t, 5*time.Second)
			r.c.Hub.Heal()
		}},
		{name: "answers cut off 5 s", over: true, limit: 2 * time.Second, lost: 250, do: func(t *testing.T, r *rig) {
			r.c.Hub.Cut("h0", "client")
			for1(t, 5*time.Second)
			r.c.Hub.Heal()
		}},
		{name: "5 % loss, 5 % twice, 5 ms, for 5 s", limit: 3 * time.Second, do: func(t *testing.T, r *rig) {
			for _, d := range [][2]string{{"client", "h0"}, {"h0", "client"}} {
				r.c.Hub.Loss(d[0], d[1], 0.05)
				r.c.Hub.Duplicate(d[0], d[1], 0.05)
				r.c.Hub.Delay(d[0], d[1], 5*time.Millisecond)
			}
			for1(t, 5*time.Second)
			r.c.Hub.Heal()
		}},
		{name: "power cut, on again after 2 s", over: true, limit: 2 * time.Second, lost: 250, do: func(t *testing.T, r *rig) {
			if err := r.nodes[0].Host.PowerOff(); err != nil {
				t.Fatal(err)
			}
			for1(t, 2*time.Second)
			if err := r.nodes[0].Host.Boot(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.nodes[0].Start()
		}},
		{name: "power cut, one gateway", limit: 8 * time.Second, lost: 1000, do: func(t *testing.T, r *rig) {
			if err := r.nodes[0].Host.PowerOff(); err != nil {
				t.Fatal(err)
			}
			if err := r.nodes[0].Host.Boot(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.nodes[0].Start()
		}},
		{name: "node's power cut, replicas elsewhere", needs: joining},
		{name: "node cut off 30 s and back", needs: joining},
		{name: "node frozen 10 s and back", needs: joining},
		{name: "kill -9 agent of a node", needs: joining},
		{name: "kill -9 server, calls through a node", needs: joining},
		{name: "server cut off from its nodes", needs: joining},
	}
}

// rig is what faults happen to: two platforms with the same function, and a
// client.
type rig struct {
	c       *Cluster
	nodes   []*Node
	client  *http.Client
	witness *witness
}

func newRig(t *testing.T, images []string) *rig {
	t.Helper()
	c := New(t, Config{Hosts: 2, Seed: 1})
	r := &rig{c: c, client: c.Client.HTTPClient(), witness: newWitness(t, c)}
	for _, h := range c.Hosts {
		c.Images(h, images...)
	}
	r.nodes = c.Servers(c.Hosts)
	for _, n := range r.nodes {
		if err := deploy(t.Context(), n, 2, map[string]string{"WITNESS": r.witness.URL}); err != nil {
			t.Fatal(err)
		}
	}
	r.back(t)
	return r
}

// back waits until everything is as it should be.
func (r *rig) back(t *testing.T) {
	t.Helper()
	for _, n := range r.nodes {
		platform.Eventually(t, patience, func() error {
			f, err := n.Client.Function(t.Context(), "", "witness", false)
			if err != nil {
				return err
			}
			if f.AvailableReplicas != 2 {
				return fmt.Errorf("%s has %d replicas", n.Host.Name, f.AvailableReplicas)
			}
			return call(t.Context(), r.client, n, 5*time.Second)
		})
	}
}

// kill kills a process of h0's platform, which starts it again.
func (r *rig) kill(t *testing.T, p Part) {
	t.Helper()
	was := r.nodes[0].Process(p)
	if err := was.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, patience, func() error {
		if now := r.nodes[0].Process(p); now.Pid == was.Pid {
			return fmt.Errorf("%s is the killed one", p)
		}
		return nil
	})
}

// stop stops a process of h0's platform until meanwhile is over.
func (r *rig) stop(t *testing.T, p Part, meanwhile func()) {
	t.Helper()
	proc := r.nodes[0].Process(p)
	if err := proc.Kill(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	meanwhile()
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
	Accepted  int     `json:"accepted"` // asynchronous calls
	Missing   int     `json:"missing"`  // of them: not executed
	Twice     int     `json:"twice"`    // executed more than once, which may be
	Pass      bool    `json:"pass"`
	Skipped   string  `json:"skipped,omitempty"`

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
	gateways := []string{r.nodes[0].URL}
	timeout := 10 * time.Second
	if f.over {
		gateways = append(gateways, r.nodes[1].URL)
		timeout = 1500 * time.Millisecond
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
		Accepted: len(accepted), Missing: missing, Twice: twice, faults: v.Faults,
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
			if f.needs != "" {
				got.Skipped = "it needs " + f.needs
				t.Skip(got.Skipped)
			}
			got = newRig(t, images).suffer(t, f, i)
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
	fmt.Fprintln(w, "case\tsent\tfailed\trecovered_s\tgap_s\tlimit\taccepted\tmissing\ttwice\tpass\t")
	for _, r := range rows {
		if r.Skipped != "" {
			fmt.Fprintf(w, "%s\t\t\t\t\t\t\t\t\tskipped\t\n", r.Case)
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%.2f\t%.2f\t%g\t%d\t%d\t%d\t%t\t\n", r.Case, r.Sent, r.Failed, r.Recovered, r.Gap, r.Limit, r.Accepted, r.Missing, r.Twice, r.Pass)
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
