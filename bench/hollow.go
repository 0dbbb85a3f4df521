package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/schedule"
	"github.com/podsnap/podsnap/controlplane/scheduler"
	"github.com/podsnap/podsnap/controlplane/soft"
	"github.com/podsnap/podsnap/controlplane/store"
	"github.com/podsnap/podsnap/functions"
	"github.com/podsnap/podsnap/internal/daemon/embedded"
	"github.com/podsnap/podsnap/nodeagent"
	"github.com/podsnap/podsnap/nodeagent/pressure"
	"github.com/podsnap/podsnap/nodeagent/runtime/fake"
	clientv3 "go.etcd.io/etcd/client/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	nameAgents5k = "replicas started/s on 5k agents without machines"
	nameLost5k   = "5k agents without machines, lost while all renew their leases each second"
	nameJoin5k   = "5k agents without machines, until all are ready"

	nameAgents10k = "replicas started/s on 10k agents without machines"
	nameLost10k   = "10k agents without machines, lost while all renew their leases each second"
	nameJoin10k   = "10k agents without machines, until all are ready"
)

func (b *bench) agents5k() []row {
	return b.agents(5_000, 5*time.Second, nameAgents5k, nameLost5k, nameJoin5k)
}

// agents10k goes on for so long that all of them have told their status anew, too.
func (b *bench) agents10k() []row {
	return b.agents(10_000, 70*time.Second, nameAgents10k, nameLost10k, nameJoin10k)
}

// agents is a cluster of real node agents, whose containers are only said to run,
// in this process; the control plane is the real one over the platform's etcd. A
// function is scaled up by 1,000 replicas in each round; then they are watched for
// the time of hold. The names are those of the rows.
func (b *bench) agents(n int, hold time.Duration, started, gone, join string) []row {
	const replicas = 1000
	b.platform() // it outlives the scope
	defer b.scope()()
	cli, err := store.Dial([]string{embedded.EtcdEndpoint(filepath.Join(b.platform().StateDir, "run", "etcd.sock"))}, nil, nil)
	b.must(err)
	b.Cleanup(func() {
		_, err := cli.Delete(context.WithoutCancel(b.ctx), "/bench/agents", clientv3.WithPrefix())
		b.must(errors.Join(err, cli.Close()))
	})
	dir, err := os.MkdirTemp("", "psa")
	b.must(err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	// A cluster's agents have a machine each. Here their thousands of stacks are
	// scanned with the control plane's, so not as often.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	c := b.standIns(cli)
	begin := time.Now()
	c.agents(b, dir, n)
	b.must(c.await(b.ctx, func() bool { return c.ready() == n }, func() error { return fmt.Errorf("%d of %d agents are ready", c.ready(), n) }))
	joined := time.Since(begin).Seconds()
	var lost int
	watch, err := c.objects.Watch(b.ctx, api.Nodes, api.WatchOptions{})
	b.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		down := map[string]bool{}
		for e := range watch.Events() {
			if node, ok := e.Object.(*corev1.Node); ok && e.Type == api.Modified && !schedule.Ready(node) && !down[node.Name] {
				down[node.Name] = true
				lost++
			}
		}
	}()
	c.function(b, 0)
	var ours []float64
	for round := range min(b.rounds, 3) {
		want := (round + 1) * replicas
		start := time.Now()
		c.scale(b, want)
		b.must(c.await(b.ctx, func() bool { return c.serving() == want }, func() error { return fmt.Errorf("%d of %d replicas are ready", c.serving(), want) }))
		ours = append(ours, replicas/time.Since(start).Seconds())
	}
	b.pause(hold)
	watch.Stop()
	<-done
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	rows := []row{
		noGoal(started, "/s", ours, []float64{1}), atMost(gone, "nodes", 0, []float64{float64(lost)}, []float64{float64(n)}),
		noGoal(join, "s", []float64{joined}, []float64{1}),
	}
	for i := range rows {
		rows[i].Hint = fmt.Sprintf("agents and control plane together have %d MB of heap and %d goroutines", m.HeapAlloc>>20, runtime.NumGoroutine())
	}
	return rows
}

// standIns is a control plane and agents that have no machines.
type standIns struct {
	objects api.Objects
	ctx     context.Context //nolint:containedctx // of what it runs
	wg      sync.WaitGroup
}

func (b *bench) standIns(cli *clientv3.Client) *standIns {
	c := &standIns{}
	ctx, cancel := context.WithCancel(b.ctx)
	c.ctx = ctx
	b.Cleanup(func() { cancel(); c.wg.Wait() })
	durable, err := store.New(store.Config{Client: cli, Prefix: "/bench/agents", Admit: admission.Admit})
	b.must(err)
	s, err := soft.New(soft.Config{Durable: durable, Kinds: soft.ReplicaKinds(), Soft: soft.Replicas, Passing: soft.IsRenewal, Admit: admission.Admit})
	b.must(err)
	c.objects = s
	sched := scheduler.New(scheduler.Config{Objects: s})
	controllers := controller.New(controller.Config{Objects: s, Apply: functions.Apply, Place: sched.Place})
	for _, run := range []func(context.Context) error{durable.Run, s.Run, sched.Run, controllers.Run} {
		c.wg.Go(func() { _ = run(ctx) })
	}
	b.must(c.await(ctx, func() bool {
		_, err := s.Get(ctx, api.Namespaces, "", api.FunctionNamespace)
		return err == nil
	}, func() error { return errors.New("the control plane has no namespaces") }))
	return c
}

// agents starts n of them.
func (c *standIns) agents(b *bench, dir string, n int) {
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi")}
	b.must(together(16, func(w int) error {
		for i := w; i < n; i += 16 {
			engine := fake.New()
			a, err := nodeagent.New(nodeagent.Config{
				NodeName: fmt.Sprintf("node-%05d", i), Objects: c.objects, Runtime: engine, Images: engine.Images(),
				StateDir: filepath.Join(dir, fmt.Sprint(i)), NodeIP: "192.0.2.1", Capacity: room, MaxPods: 110, OnDisk: true,
				Memory: func() pressure.Memory { return pressure.Memory{Total: 16 << 30, Available: 16 << 30} },
				Dial:   func(context.Context, string, string) (net.Conn, error) { c, _ := net.Pipe(); return c, nil },
			})
			if err != nil {
				return err
			}
			c.wg.Go(func() { _ = a.Run(c.ctx) })
		}
		return nil
	}))
}

func (c *standIns) ready() (n int) {
	nodes, err := api.Items[*corev1.Node](c.ctx, c.objects, api.Nodes, api.ListOptions{})
	if err != nil {
		return 0
	}
	for _, o := range nodes {
		if schedule.Ready(o) {
			n++
		}
	}
	return n
}

// function deploys one with so many replicas.
func (c *standIns) function(b *bench, replicas int) {
	f := &api.Function{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.FunctionNamespace, Name: "many"},
		Spec: api.FunctionSpec{Name: "many", Image: "many:latest", Labels: map[string]string{
			"com.openfaas.scale.min": fmt.Sprint(replicas), "com.openfaas.scale.max": "10000", "com.openfaas.scale.zero": "true",
		}},
	}
	stored, err := api.Create(c.ctx, c.objects, f)
	b.must(err)
	b.must(functions.Apply(c.ctx, c.objects, stored))
}

// scale asks for a number of replicas, as the autoscaler does.
func (c *standIns) scale(b *bench, replicas int) {
	_, err := api.Mutate(c.ctx, c.objects, api.Deployments, api.FunctionNamespace, "many", api.UpdateOptions{}, func(d *appsv1.Deployment) (bool, error) {
		n := int32(replicas)
		d.Spec.Replicas = &n
		return true, nil
	})
	b.must(err)
}

func (c *standIns) serving() int {
	d, err := api.Get[*appsv1.Deployment](c.ctx, c.objects, api.Deployments, api.FunctionNamespace, "many")
	if err != nil {
		return 0
	}
	return int(d.Status.ReadyReplicas)
}

// await looks until something is so, for five minutes at most.
func (*standIns) await(ctx context.Context, is func() bool, why func() error) error {
	limit := time.NewTimer(5 * time.Minute)
	defer limit.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return why()
		case <-tick.C:
		}
	}
	return nil
}
