package main

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/fleet"
	"github.com/podsnap/podsnap/controlplane/scheduler"
	"github.com/podsnap/podsnap/functions"
	"github.com/podsnap/podsnap/nodeagent"
	"github.com/podsnap/podsnap/nodeagent/runtime/fake"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// BenchmarkTrack is a cold start and its end without containers: from the
// gateway's report to the endpoint, through control plane and node agent over
// objects in memory and a container engine in memory, and back to nothing. It
// is what the platform itself costs on the way.
func BenchmarkTrack(b *testing.B) {
	for _, parallel := range []int{1, 32} {
		b.Run(strconv.Itoa(parallel), func(b *testing.B) { benchmarkTrack(b, parallel) })
	}
}

func benchmarkTrack(b *testing.B, parallel int) {
	ctx, cancel := context.WithCancel(context.Background())
	o := memory.New(memory.Config{Admit: admission.Admit})
	engine := fake.New()
	fl, err := fleet.New(fleet.Config{Objects: o, Settle: time.Nanosecond, Comeback: time.Nanosecond, Policy: func(d *appsv1.Deployment) autoscale.Policy {
		return autoscale.Policy{Scale: functions.Scaling(d.Labels)}
	}})
	if err != nil {
		b.Fatal(err)
	}
	agent, err := nodeagent.New(nodeagent.Config{
		NodeName: "n", Objects: o, Runtime: engine, Images: engine.Images(), StateDir: b.TempDir(), MaxPods: 10000, OnDisk: true,
		Dial: func(context.Context, string, string) (net.Conn, error) { c, _ := net.Pipe(); return c, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	sched := scheduler.New(scheduler.Config{Objects: o})
	controllers := controller.New(controller.Config{Objects: o, Apply: functions.Apply, Place: sched.Place})
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{controllers.Run, sched.Run, fl.Run, agent.Run} {
		wg.Go(func() { _ = run(ctx) })
	}
	defer wg.Wait()
	defer cancel()
	eventually(b, func() bool {
		_, err := o.Get(ctx, api.Nodes, "", "n")
		return err == nil
	})
	eventually(b, func() bool {
		_, err := o.Get(ctx, api.Namespaces, "", "openfaas-fn")
		return err == nil
	})
	var calls []*call
	for i := range parallel {
		name := fmt.Sprint("f", i)
		engine.Script("i:"+name, fake.Script{})
		f, err := o.Create(ctx, &api.Function{
			ObjectMeta: metav1.ObjectMeta{Namespace: "openfaas-fn", Name: name},
			Spec:       api.FunctionSpec{Name: name, Image: "i:" + name, Labels: map[string]string{"com.openfaas.scale.min": "0", "com.openfaas.scale.zero": "true"}},
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := functions.Apply(ctx, o, f.(*api.Function)); err != nil {
			b.Fatal(err)
		}
		calls = append(calls, &call{k: types.NamespacedName{Namespace: "openfaas-fn", Name: name}, ready: make(chan struct{}, 1), gone: make(chan struct{}, 1)})
	}
	s, err := fl.Endpoints(ctx, "g")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Stop()
	wg.Go(func() { answer(ctx, fl, s, calls) })
	for _, c := range calls {
		c.cycle(ctx, b, o, fl)
	}
	b.ResetTimer()
	var each sync.WaitGroup
	for n, c := range calls {
		each.Go(func() {
			for i := n; i < b.N; i += parallel {
				c.cycle(ctx, b, o, fl)
			}
		})
	}
	each.Wait()
	b.StopTimer()
}

type call struct {
	k           types.NamespacedName
	ready, gone chan struct{}
	arrived     uint64
}

// answer plays the gateway's part.
func answer(ctx context.Context, fl *fleet.Fleet, s api.EndpointStream, calls []*call) {
	by := map[types.NamespacedName]*call{}
	for _, c := range calls {
		by[c.k] = c
	}
	for e := range s.Events() {
		c := by[e.Function]
		if c == nil {
			continue
		}
		switch e.Type {
		case api.EndpointReady:
			c.ready <- struct{}{}
		case api.EndpointDrain:
			_ = fl.Drained(ctx, "g", []types.UID{e.Endpoint.Pod})
		case api.EndpointGone:
			c.gone <- struct{}{}
		case api.EndpointsSynced, api.EndpointsFailing:
		}
	}
}

// cycle is a call at zero replicas, and the way back to zero.
func (c *call) cycle(ctx context.Context, b *testing.B, o api.Objects, fl *fleet.Fleet) {
	c.arrived++
	_ = fl.Report(ctx, "g", []api.Demand{{Function: c.k, Queued: 1, Arrived: c.arrived}})
	<-c.ready
	_ = fl.Report(ctx, "g", []api.Demand{{Function: c.k, Arrived: c.arrived}})
	_, err := api.Mutate(ctx, o, api.Deployments, c.k.Namespace, c.k.Name, api.UpdateOptions{}, func(d *appsv1.Deployment) (bool, error) {
		d.Spec.Replicas = new(int32)
		return true, nil
	})
	if err != nil {
		b.Error(err)
	}
	<-c.gone
}

func eventually(b *testing.B, ok func() bool) {
	for deadline := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			b.Fatal("it does not happen")
		}
	}
}
