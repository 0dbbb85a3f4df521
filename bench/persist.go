package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/scheduler"
	"github.com/podsnap/podsnap/controlplane/soft"
	"github.com/podsnap/podsnap/controlplane/store"
	"github.com/podsnap/podsnap/internal/daemon/embedded"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	namePersisted     = "pods placed and persisted/s at 5k nodes ÷ raw etcd put/s"
	namePersistedRate = "pods placed and persisted/s at 5k nodes ÷ goal"

	namePersisted1k     = "pods placed and persisted/s at 1k nodes ÷ raw etcd put/s"
	namePersistedRate1k = "pods placed and persisted/s at 1k nodes ÷ goal"
)

func (b *bench) persisted5k() []row {
	return b.persisted(5000, namePersisted, namePersistedRate)
}

func (b *bench) persisted1k() []row {
	return b.persisted(1000, namePersisted1k, namePersistedRate1k)
}

// persisted is how many replicas get from nothing to a node and into etcd in a
// second, in a cluster of so many nodes without agents. Placing and storing are
// the platform's own, over its etcd process, beside its own keys. The raw puts
// are as large and as many at a time.
func (b *bench) persisted(nodes int, ratio, rate string) []row {
	const pods, writers = 2000, 64
	b.platform() // it outlives the scope
	defer b.scope()()
	cli, err := store.Dial([]string{embedded.EtcdEndpoint(filepath.Join(b.platform().StateDir, "run", "etcd.sock"))}, nil, nil)
	b.must(err)
	b.Cleanup(func() {
		_, err := cli.Delete(context.WithoutCancel(b.ctx), "/bench/persist", clientv3.WithPrefix())
		b.must(errors.Join(err, cli.Close()))
	})
	c := b.hollow(cli, nodes, writers)
	size := strings.Repeat("x", c.podBytes)
	var ours, base, goal, placing []float64
	n := 0
	b.each(func() {
		var puts atomic.Int64
		start := time.Now()
		b.must(together(writers, func(w int) error {
			for i := 0; time.Since(start) < time.Second; i++ {
				if _, err := cli.Put(b.ctx, fmt.Sprintf("/bench/persist-raw/%d-%d", w, i%100), size); err != nil {
					return err
				}
				puts.Add(1)
			}
			return nil
		}))
		base = append(base, float64(puts.Load())/time.Since(start).Seconds())

		from := n
		n += pods
		start = time.Now()
		b.must(together(writers, func(w int) error {
			for i := from + w; i < n; i += writers {
				if err := c.start(b.ctx, fmt.Sprintf("p%d", i)); err != nil {
					return err
				}
			}
			return nil
		}))
		placing = append(placing, ms(time.Since(start)))
		b.must(c.stored(b.ctx, n+1)) // and the first
		ours, goal = append(ours, pods/time.Since(start).Seconds()), append(goal, 1000)
		b.note("%d pods placed after %.0f ms, persisted after %s; %.0f puts/s", pods, placing[len(placing)-1], time.Since(start), base[len(base)-1])
	})
	rows := []row{atLeast(ratio, 0.2, ours, base), atLeast(rate, 1, ours, goal)}
	for i := range rows {
		rows[i].Hint = fmt.Sprintf("placing and taking into memory is %.0f ms of the time for %d pods, storing behind the rest", median(placing), pods)
	}
	return rows
}

// cluster is a control plane's store and scheduler, with nodes that are only
// objects.
type cluster struct {
	objects  api.Objects // into which pods are written
	sched    *scheduler.Scheduler
	podBytes int // of a stored pod

	mu   sync.Mutex
	have map[string]bool // pods that etcd holds with their node
	turn chan struct{}   // closed at each change
}

// hollow starts one.
func (b *bench) hollow(cli *clientv3.Client, nodes, writers int) *cluster {
	ctx, cancel := context.WithCancel(b.ctx)
	var wg sync.WaitGroup
	b.Cleanup(func() { cancel(); wg.Wait() })
	durable, err := store.New(store.Config{Client: cli, Prefix: "/bench/persist", Admit: admission.Admit})
	b.must(err)
	wg.Go(func() { _ = durable.Run(ctx) })
	s, err := soft.New(soft.Config{Durable: durable, Kinds: soft.ReplicaKinds(), Soft: soft.Replicas, Admit: admission.Admit})
	b.must(err)
	wg.Go(func() { _ = s.Run(ctx) })
	_, err = durable.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: api.FunctionNamespace}})
	b.must(err)
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("110")}
	b.must(together(writers, func(w int) error {
		for i := w; i < nodes; i += writers {
			made, err := durable.Create(ctx, &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%05d", i), Labels: map[string]string{corev1.LabelTopologyZone: fmt.Sprint("zone-", i%3)}},
			})
			if err != nil {
				return err
			}
			n := made.DeepCopyObject().(*corev1.Node)
			n.Status = corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
			_, err = durable.Update(ctx, n, api.UpdateOptions{Subresource: "status"})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	c := &cluster{objects: s, have: map[string]bool{}, turn: make(chan struct{})}
	c.sched = scheduler.New(scheduler.Config{Objects: s})
	wg.Go(func() { _ = c.sched.Run(ctx) })
	w := cli.Watch(ctx, "/bench/persist/core/pods/", clientv3.WithPrefix())
	wg.Go(func() { c.follow(w) })
	// The first pods wait until the scheduler knows the nodes.
	b.must(c.start(ctx, "first"))
	b.must(c.stored(ctx, 1))
	return c
}

// start creates a replica as the replica controller does.
func (c *cluster) start(ctx context.Context, name string) error {
	p := functionPod(name, "100m")
	p.UID = ""
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "resize-1", UID: types.UID("resize-1"), Controller: new(true)}}
	node, settle := c.sched.Place(p)
	p.Spec.NodeName = node
	out, err := c.objects.Create(ctx, p)
	if err != nil {
		settle(nil)
		return err
	}
	settle(out.(*corev1.Pod))
	return nil
}

// follow notes the pods that etcd gets.
func (c *cluster) follow(w clientv3.WatchChan) {
	for r := range w {
		c.mu.Lock()
		for _, e := range r.Events {
			if strings.Contains(string(e.Kv.Value), "node-0") {
				c.have[string(e.Kv.Key)] = true
				c.podBytes = len(e.Kv.Value)
			}
		}
		close(c.turn)
		c.turn = make(chan struct{})
		c.mu.Unlock()
	}
}

// stored waits until etcd holds n pods with their node.
func (c *cluster) stored(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		c.mu.Lock()
		have, turn := len(c.have), c.turn
		c.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d pods are stored: %w", have, n, ctx.Err())
		}
	}
}
