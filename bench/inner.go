package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/schedule"
	"github.com/podsnap/podsnap/controlplane/store"
	"github.com/podsnap/podsnap/internal/daemon/embedded"
	"github.com/podsnap/podsnap/test/platform"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	namePicks1k  = "scheduler decisions/s at 1k nodes ÷ goal"
	namePicks5k  = "scheduler decisions/s at 5k nodes ÷ goal"
	namePicks10k = "scheduler decisions/s at 10k nodes ÷ goal"
	nameGrowth   = "scheduler cost of a decision, 10k ÷ 1k nodes"
	nameFanout   = "watch fan-out to 1,000 watchers ÷ etcd client watches"
	nameAsync    = "async accept/s ÷ raw JetStream synchronous publish (c=32)"
)

// schedule is a decision and its booking, in process, in clusters that are
// half full; an older pod leaves for each that comes.
func (b *bench) schedule() []row {
	sizes := []int{1000, 5000, 10000}
	var clusters []*busy
	for _, n := range sizes {
		clusters = append(clusters, newBusy(n))
	}
	rates, costs := make([][]float64, len(sizes)), make([][]float64, len(sizes))
	b.each(func() {
		for i, c := range clusters {
			// Enough of them that the collector's and the page tables' share is
			// the same in each round.
			const decisions = 100_000
			start := time.Now()
			for range decisions {
				b.must(c.next())
			}
			took := time.Since(start)
			rates[i] = append(rates[i], decisions/took.Seconds())
			costs[i] = append(costs[i], us(took)/decisions)
		}
	})
	return []row{
		atLeast(namePicks1k, 1, rates[0], []float64{20_000}),
		atLeast(namePicks5k, 1, rates[1], []float64{15_000}),
		atLeast(namePicks10k, 1, rates[2], []float64{15_000}),
		atMost(nameGrowth, "µs", 2.0, costs[2], costs[0]),
	}
}

// busy is a cluster in which pods come and go.
type busy struct {
	*schedule.Cluster
	there []*corev1.Pod
	turn  int
}

func newBusy(nodes int) *busy {
	c := &busy{Cluster: schedule.NewCluster()}
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("110")}
	for i := range nodes {
		name := fmt.Sprintf("node-%05d", i)
		c.SetNode(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", i%3)}},
			Status:     corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		})
		for j := range 4 {
			p := functionPod(fmt.Sprintf("p%d-%d", i, j), "1")
			c.Assign(p, name)
			c.there = append(c.there, p)
		}
	}
	return c
}

// next places a pod; the oldest one leaves.
func (c *busy) next() error {
	c.turn++
	p := functionPod(fmt.Sprint("q", c.turn), "1")
	name, e := schedule.Pick(p, c.Cluster)
	if name == "" {
		return errors.New(e.String())
	}
	c.Assign(p, name)
	i := c.turn % len(c.there)
	c.Remove(c.there[i].UID)
	c.there[i] = p
	return nil
}

func functionPod(name, cpu string) *corev1.Pod {
	want := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("128Mi")}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "openfaas-fn", Name: name, UID: types.UID(name), Labels: map[string]string{api.LabelFunction: "resize"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "resize", Image: "resize:latest", Resources: corev1.ResourceRequirements{Requests: want, Limits: want},
		}}},
	}
}

// jetStream starts a NATS server as the platform has it, in this process, and
// answers with its URL.
func (b *bench) jetStream() string {
	dir, err := os.MkdirTemp("", "psn")
	b.must(err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	c := embedded.Config{Dir: dir, NATS: platform.FreePorts(b, 1)[0], NATSToken: "bench", NoEtcd: true, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(b.ctx)
	ready, end := make(chan struct{}), make(chan error, 1)
	go func() { end <- embedded.Run(ctx, c, func() { close(ready) }) }()
	b.Cleanup(func() { cancel(); <-end })
	select {
	case <-ready:
	case err := <-end:
		end <- err
		b.Fatalf("embedded NATS: %v", err)
	}
	return "nats://bench@" + c.NATS
}

// fanout is the time from a write to the last of 1,000 watchers that learn of
// it: watches of a store against as many of etcd's own client, both in this
// process, over the platform's etcd beside its own keys.
func (b *bench) fanout() []row {
	const watchers, writes = 1000, 20
	b.platform() // it outlives the scope
	defer b.scope()()
	socket := filepath.Join(b.platform().StateDir, "run", "etcd.sock")
	cli, err := store.Dial([]string{embedded.EtcdEndpoint(socket)}, nil, nil)
	b.must(err)
	b.Cleanup(func() { cli.Close() })
	ctx, cancel := context.WithCancel(b.ctx)
	var wg sync.WaitGroup
	b.Cleanup(func() { cancel(); wg.Wait() })
	s, err := store.New(store.Config{Client: cli, Prefix: "/bench/store"})
	b.must(err)
	wg.Go(func() { _ = s.Run(ctx) })
	_, err = s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	b.must(err)
	value := strings.Repeat("x", 800) // about 1 KiB with its metadata

	heard := make(chan struct{}, watchers)
	for range watchers {
		w, err := s.Watch(ctx, api.ConfigMaps, api.WatchOptions{Namespace: "a"})
		b.must(err)
		wg.Go(func() {
			defer w.Stop()
			for e := range w.Events() {
				if !e.InitialEventsEnd {
					heard <- struct{}{}
				}
			}
		})
		watch := cli.Watch(ctx, "/bench/raw/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-watch
		wg.Go(func() {
			for range watch {
				heard <- struct{}{}
			}
		})
	}
	all := func(write func() error) float64 {
		start := time.Now()
		b.must(write())
		limit := time.NewTimer(30 * time.Second)
		defer limit.Stop()
		for n := range watchers {
			select {
			case <-heard:
			case <-limit.C:
				b.Fatalf("%d of %d watchers have heard of a write", n, watchers)
			}
		}
		return ms(time.Since(start))
	}
	n := 0
	ourWrite := func() error {
		n++
		_, err := s.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprint("c", n)}, Data: map[string]string{"x": value}})
		return err
	}
	baseWrite := func() error {
		n++
		_, err := cli.Put(ctx, fmt.Sprint("/bench/raw/c", n), value)
		return err
	}
	all(ourWrite)
	all(baseWrite)
	var ours, base []float64
	b.each(func() {
		var o, d []float64
		for range writes {
			o, d = append(o, all(ourWrite)), append(d, all(baseWrite))
		}
		ours, base = append(ours, median(o)), append(base, median(d))
	})
	return []row{atMost(nameFanout, "ms", 0.4, ours, base)}
}

// scope ends what is started from now on when the answer is called.
func (b *bench) scope() (end func()) {
	before := b.cleanups
	b.cleanups = nil
	return func() {
		b.clean()
		b.cleanups = before
	}
}

// async is how many asynchronous calls are accepted in a second, against raw
// publishing to a stream with the same settings, each waiting for its
// acknowledgement. The platform makes the calls meanwhile.
func (b *bench) async() []row {
	const callers = 32
	body := strings.Repeat("x", 64)
	b.prepare()
	accept, err := open(b.ctx, post(b.gateway(), "/async-function/"+function, body, http.StatusAccepted), callers)
	b.must(err)
	defer accept.close()
	defer b.scope()()
	conn, err := nats.Connect(b.jetStream())
	b.must(err)
	b.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	b.must(err)
	stream, err := js.CreateStream(b.ctx, jetstream.StreamConfig{
		Name: "BENCH", Subjects: []string{"bench.>"}, Storage: jetstream.FileStorage, Replicas: 1,
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxBytes: 1 << 30, Duplicates: 2 * time.Minute,
	})
	b.must(err)
	// About what a call's header is in the platform's stream.
	header := fmt.Sprintf(`{"id":"00000000-0000-0000-0000-000000000000","function":{"Namespace":"openfaas-fn","Name":%q},"method":"POST","header":{"Content-Length":["64"]},"start":%q,"attempt":0}`, function, time.Now())
	var ours, base []float64
	b.each(func() {
		base = append(base, b.publish(js, callers, header, body))
		b.must(stream.Purge(b.ctx))
		ours = append(ours, b.rate(accept))
		b.drained()
		b.note("async: %.0f accepted/s, %.0f raw publishes/s", ours[len(ours)-1], base[len(base)-1])
	})
	return []row{atLeast(nameAsync, 0.35, ours, base)}
}

// publish stores messages from so many publishers for a second, and answers
// with the number of acknowledged ones.
func (b *bench) publish(js jetstream.JetStream, publishers int, header, body string) float64 {
	counts := make([]int, publishers)
	start := time.Now()
	b.must(together(publishers, func(i int) error {
		for time.Since(start) < time.Second {
			m := &nats.Msg{Subject: "bench.openfaas-fn." + function, Data: []byte(body), Header: nats.Header{"Podsnap-Call": {header}}}
			m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%d-%d-%d", start.UnixNano(), i, counts[i]))
			if _, err := js.PublishMsg(b.ctx, m); err != nil {
				return err
			}
			counts[i]++
		}
		return nil
	}))
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return float64(sum)
}

// drained waits until the platform's queue is empty.
func (b *bench) drained() {
	platform.Eventually(b, time.Minute, func() error {
		b.must(b.ctx.Err())
		m, err := b.metrics()
		if err != nil {
			return err
		}
		for l := range strings.Lines(m) {
			if f := strings.Fields(l); strings.HasPrefix(l, "queue_worker_pending_messages{") && f[len(f)-1] != "0" {
				return fmt.Errorf("calls are pending: %s", l)
			}
		}
		return nil
	})
}
