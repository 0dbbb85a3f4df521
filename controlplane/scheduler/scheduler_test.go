package scheduler_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/scheduler"
	"github.com/podsnap/podsnap/test/bubble"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a store with a running scheduler in a synctest bubble.
type bench struct {
	t   *testing.T
	ctx context.Context
	*store
	reg *prometheus.Registry
	s   *scheduler.Scheduler
}

// store refuses every n-th bind, and tells of pods late, by nanoseconds.
type store struct {
	*memory.Objects
	refuse, binds atomic.Int64
	late          atomic.Int64
	before        func(bound *corev1.Pod) // is called before each bind; nil is nothing
}

func (s *store) Update(ctx context.Context, o api.Object, u api.UpdateOptions) (api.Object, error) {
	if p, ok := o.(*corev1.Pod); ok && u.Subresource == "" {
		if n := s.refuse.Load(); n > 0 && s.binds.Add(1)%n == 0 {
			return nil, apierrors.NewConflict(api.Pods.GR(), p.Name, fmt.Errorf("somebody was faster"))
		}
		if s.before != nil {
			s.before(p)
		}
	}
	return s.Objects.Update(ctx, o, u)
}

func (s *store) Watch(ctx context.Context, r *api.Resource, o api.WatchOptions) (api.Watch, error) {
	w, err := s.Objects.Watch(ctx, r, o)
	if err != nil || r != api.Pods {
		return w, err
	}
	return newLate(ctx, w, &s.late), nil
}

func run(t *testing.T, f func(b *bench)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := &bench{t: t, ctx: ctx, store: &store{Objects: memory.New()}, reg: prometheus.NewRegistry()}
		b.s = scheduler.New(scheduler.Config{Objects: b.store, Metrics: b.reg})
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := b.s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer wg.Wait()
		defer cancel()
		f(b)
	})
}

func (b *bench) node(name, cpu string, pods int64) {
	b.t.Helper()
	n, err := api.Create(b.ctx, b, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil {
		b.t.Fatal(err)
	}
	n = n.DeepCopy()
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: *resource.NewQuantity(pods, resource.DecimalSI),
	}
	if _, err := b.Update(b.ctx, n, api.UpdateOptions{Subresource: "status"}); err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait() // until the scheduler knows it
}

func (b *bench) pod(name, cpu string, with ...func(*corev1.Pod)) {
	b.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)},
	}}}
	for _, f := range with {
		f(p)
	}
	if _, err := b.Create(b.ctx, p); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) get(name string) *corev1.Pod {
	b.t.Helper()
	synctest.Wait()
	p, err := api.Get[*corev1.Pod](b.ctx, b, api.Pods, "d", name)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// placed counts pods by node.
func (b *bench) placed() map[string]int {
	b.t.Helper()
	synctest.Wait()
	ps, err := api.Items[*corev1.Pod](b.ctx, b, api.Pods, api.ListOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[string]int{}
	for _, p := range ps {
		out[p.Spec.NodeName]++
	}
	return out
}

func TestNeverDoubleBooked(t *testing.T) {
	run(t, func(b *bench) {
		b.refuse.Store(7)
		b.node("a", "4", 20)
		b.node("b", "4", 30)
		for i := range 80 {
			b.pod(fmt.Sprint("p", i), "1m")
		}
		time.Sleep(10 * time.Second)
		got := b.placed()
		if got["a"] != 20 || got["b"] != 30 || got[""] != 30 {
			t.Errorf("pods by node %v, want 20 and 30 and 30 that wait", got)
		}
	})
}

func TestRoomWakesThoseThatWait(t *testing.T) {
	run(t, func(b *bench) {
		b.node("a", "2", 10)
		b.pod("first", "2")
		if b.get("first").Spec.NodeName != "a" {
			t.Fatal("the first pod has no node")
		}
		b.pod("second", "2")
		p := b.get("second")
		if len(p.Status.Conditions) != 1 || p.Status.Conditions[0].Reason != "Unschedulable" || p.Status.Conditions[0].Message != "0/1 nodes are available: 1 Insufficient cpu." {
			t.Fatalf("conditions %+v", p.Status.Conditions)
		}
		time.Sleep(30 * time.Second)
		if _, err := b.Delete(b.ctx, api.Pods, "d", "first", api.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
		p = b.get("second")
		if p.Spec.NodeName != "a" || p.Status.Conditions[0].Status != corev1.ConditionTrue {
			t.Errorf("on node %q with %+v, want a at once", p.Spec.NodeName, p.Status.Conditions)
		}
	})
}

// Room that a pod had for a moment, and did not keep, is there for those that were
// looked at in that moment.
func TestRoomThatIsGivenBack(t *testing.T) {
	second := func(b *bench) {
		b.pod("second", "2")
		time.Sleep(10 * time.Millisecond) // it is told that there is no room
	}
	gone := func(b *bench) {
		if _, err := b.Delete(b.ctx, api.Pods, "d", "first", api.DeleteOptions{}); err != nil {
			b.t.Error(err)
		}
	}
	for name, first := range map[string]func(b *bench){
		"deleted, and seen so": func(b *bench) { second(b); gone(b); time.Sleep(10 * time.Millisecond) },
		"deleted":              func(b *bench) { second(b); gone(b) },
		"held back": func(b *bench) {
			second(b)
			_, err := api.Mutate(b.ctx, b.store.Objects, api.Pods, "d", "first", api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
				p.Spec.SchedulerName = "mine"
				return true, nil
			})
			if err != nil {
				b.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(b *bench) {
				b.node("a", "2", 10)
				b.before = func(p *corev1.Pod) {
					if p.Name == "first" {
						first(b)
					}
				}
				b.pod("first", "2")
				time.Sleep(time.Second)
				if got := b.get("second").Spec.NodeName; got != "a" {
					t.Errorf("on node %q, want a", got)
				}
			})
		})
	}
}

// What pods that want neighbours look at may change without a pod or a node that
// comes or goes.
func TestLabelsWakeThoseThatWait(t *testing.T) {
	wants := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey:       corev1.LabelHostname,
			LabelSelector:     &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}},
		}}}}
	}
	label := func(b *bench, r *api.Resource, namespace, name, key, value string) {
		_, err := api.Mutate(b.ctx, b, r, namespace, name, api.UpdateOptions{}, func(o api.Object) (bool, error) {
			o.SetLabels(map[string]string{key: value})
			return true, nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	run(t, func(b *bench) {
		b.node("a", "4", 10)
		if _, err := b.Create(b.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}}); err != nil {
			t.Fatal(err)
		}
		label(b, api.Nodes, "", "a", corev1.LabelHostname, "a")
		b.pod("db", "1")
		b.pod("near", "1", wants)
		b.after(30 * time.Second)
		if got := b.get("near").Spec.NodeName; got != "" {
			t.Fatalf("on node %q, where it has no neighbour", got)
		}
		label(b, api.Pods, "d", "db", "app", "db")
		b.after(5 * time.Second)
		label(b, api.Namespaces, "", "d", "team", "x")
		b.after(time.Second)
		if got := b.get("near").Spec.NodeName; got != "a" {
			t.Errorf("on node %q, want a", got)
		}
	})
	run(t, func(b *bench) {
		b.node("a", "4", 10)
		if _, err := b.Create(b.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d", Labels: map[string]string{"team": "x"}}}); err != nil {
			t.Fatal(err)
		}
		label(b, api.Nodes, "", "a", corev1.LabelHostname, "a")
		b.pod("db", "1")
		b.pod("near", "1", wants)
		b.after(5 * time.Second)
		label(b, api.Pods, "d", "db", "app", "db")
		b.after(time.Second)
		if got := b.get("near").Spec.NodeName; got != "a" {
			t.Errorf("on node %q, want a", got)
		}
	})
}

func TestLeavesOthersPodsAlone(t *testing.T) {
	run(t, func(b *bench) {
		b.node("a", "2", 10)
		b.pod("other", "1", func(p *corev1.Pod) { p.Spec.SchedulerName = "mine" })
		b.pod("gated", "1", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} })
		b.pod("ours", "1", func(p *corev1.Pod) { p.Spec.SchedulerName = scheduler.Name })
		if got := b.placed(); got["a"] != 1 || got[""] != 2 {
			t.Errorf("pods by node %v, want one of ours", got)
		}
		_, err := api.Mutate(b.ctx, b, api.Pods, "d", "gated", api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
			p.Spec.SchedulingGates = nil
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := b.get("gated").Spec.NodeName; got != "a" {
			t.Errorf("on node %q after its gate opened, want a", got)
		}
	})
}

func TestMetricsAreKubernetes(t *testing.T) {
	run(t, func(b *bench) {
		b.node("a", "1", 10)
		b.pod("p", "1")
		b.pod("q", "1")
		synctest.Wait()
		families, err := b.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]uint64{}
		for _, f := range families {
			for _, m := range f.Metric {
				labels := ""
				for _, l := range m.Label {
					if l.GetName() == "result" || l.GetName() == "queue" {
						labels = l.GetValue()
					}
				}
				if strings.HasPrefix(f.GetName(), "scheduler_") {
					got[f.GetName()+" "+labels] += m.GetHistogram().GetSampleCount() + uint64(m.GetGauge().GetValue())
				}
			}
		}
		for _, name := range []string{
			"scheduler_scheduling_attempt_duration_seconds scheduled", "scheduler_scheduling_attempt_duration_seconds unschedulable",
			"scheduler_pod_scheduling_sli_duration_seconds ", "scheduler_pending_pods unschedulable",
		} {
			if got[name] != 1 {
				t.Errorf("%s is %d, want 1: %v", name, got[name], got)
			}
		}
	})
}

// after lets time pass in the bubble.
func (b *bench) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
