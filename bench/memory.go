package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/scheduler"
	"github.com/podsnap/podsnap/controlplane/soft"
	"github.com/podsnap/podsnap/controlplane/store"
	"github.com/podsnap/podsnap/functions"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	namePodHeap    = "heap of the control plane for each stored pod ÷ the pods decoded once"
	namePodEncoded = "heap of the control plane for each stored pod ÷ the pod as it is stored"
)

// podHeap is what a stored pod costs the control plane's memory: its stores,
// mirrors and indexes, after a garbage collection; etcd is in this process too, and
// has its index before. The baseline is what a client's
// cache has of the same pods at least: each decoded once, in a map.
func (b *bench) podHeap() []row {
	defer b.scope()()
	dir, err := os.MkdirTemp("", "psh")
	b.must(err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	cli := b.storeOf(dir)
	value, err := rules.Encode(runningPod(podName(0)))
	b.must(err)
	b.must(putPods(b.ctx, cli, string(value), b.pods))

	before := liveHeap()
	baseline := make(map[types.NamespacedName]*corev1.Pod, b.pods)
	for i := range b.pods {
		obj, err := rules.Restore(api.Pods, []byte(strings.ReplaceAll(string(value), podName(0), podName(i))))
		b.must(err)
		p := obj.(*corev1.Pod)
		baseline[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = p
	}
	decoded := float64(liveHeap()-before) / float64(b.pods)
	runtime.KeepAlive(baseline) // until here
	clear(baseline)

	before = liveHeap()
	o := b.holding(cli)
	ours := float64(b.restingHeap()-before) / float64(b.pods)
	l, err := o.List(b.ctx, api.Pods, api.ListOptions{Limit: 1})
	b.must(err)
	if n := int(l.Remaining) + len(l.Items); n != b.pods {
		b.Fatalf("there are %d pods, not %d", n, b.pods)
	}
	return []row{noGoal(namePodHeap, "B", []float64{ours}, []float64{decoded}), noGoal(namePodEncoded, "B", []float64{ours}, []float64{float64(len(value))})}
}

// liveHeap is the bytes of the heap that something refers to.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC() // what the first has finalized is gone then
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// restingHeap is liveHeap when it does not shrink any more: what controllers look at
// after a start is not what they keep.
func (b *bench) restingHeap() uint64 {
	last := liveHeap()
	for range 30 {
		b.pause(time.Second)
		now := liveHeap()
		if now > last-last/100 {
			return now
		}
		last = now
	}
	return last
}

// holding is a control plane that has read everything. It loses no node: those of
// the pods are only named, and nobody renews a lease.
func (b *bench) holding(cli *clientv3.Client) api.Objects {
	ctx, cancel := context.WithCancel(b.ctx)
	var wg sync.WaitGroup
	b.Cleanup(func() { cancel(); wg.Wait() })
	durable, err := store.New(store.Config{Client: cli, Admit: admission.Admit})
	b.must(err)
	s, err := soft.New(soft.Config{Durable: durable, Kinds: soft.ReplicaKinds(), Soft: soft.Replicas, Passing: soft.IsRenewal, Admit: admission.Admit})
	b.must(err)
	sched := scheduler.New(scheduler.Config{Objects: s})
	const never = 24 * time.Hour
	controllers := controller.New(controller.Config{Objects: s, Apply: functions.Apply, Place: sched.Place, Grace: never, NodeGone: never})
	for _, run := range []func(context.Context) error{durable.Run, s.Run, sched.Run, controllers.Run} {
		wg.Go(func() { _ = run(ctx) })
	}
	b.must(controllers.View().Wait(ctx))
	return s
}

func podName(i int) string { return fmt.Sprintf("held-%06d", i) }

// runningPod is one that runs, as a node agent tells of it. Nobody owns it, so no
// controller ends it.
func runningPod(name string) *corev1.Pod {
	p := functionPod(name, "100m")
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	p.CreationTimestamp, p.Labels = now, map[string]string{"app": "held", "pod-template-hash": "5d8f9c7b6"}
	p.Spec.NodeName = "node-00000"
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, HostIP: "192.0.2.1", PodIP: "10.62.0.2", PodIPs: []corev1.PodIP{{IP: "10.62.0.2"}}, StartTime: &now, QOSClass: corev1.PodQOSGuaranteed,
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: "resize", Image: "resize:latest", ImageID: "sha256:" + strings.Repeat("0", 64), ContainerID: "podsnap://" + strings.Repeat("0", 64),
			Ready: true, Started: new(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		}},
	}
	for _, t := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	return p
}

// putPods stores so many copies of the encoded first pod.
func putPods(ctx context.Context, cli *clientv3.Client, value string, n int) error {
	const atOnce = 100
	return together(4, func(w int) error {
		for at := w * atOnce; at < n; at += 4 * atOnce {
			var ops []clientv3.Op
			for i := at; i < min(at+atOnce, n); i++ {
				ops = append(ops, clientv3.OpPut("/registry/core/pods/"+api.FunctionNamespace+"/"+podName(i), strings.ReplaceAll(value, podName(0), podName(i))))
			}
			if _, err := cli.Txn(ctx).Then(ops...).Commit(); err != nil {
				return err
			}
		}
		return nil
	})
}
