package nodeagent_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime/fake"
)

func TestAdoption(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.pod("a", function)
		r.pod("b")
		r.pod("c")
		r.pod("d", policy(corev1.RestartPolicyNever))
		r.after(time.Second)
		was := map[string]string{}
		for _, n := range []string{"a", "b", "c", "d"} {
			was[n] = r.get(n).Status.ContainerStatuses[0].ContainerID
		}
		r.stop()
		// While nobody looks: b's container ends, d's too, c is deleted by force.
		boxes, _ := r.engine.List(t.Context())
		for _, b := range boxes {
			if b.Name == "b" || b.Name == "d" {
				r.engine.Kill(b.Containers[0].ID, fake.Run{Code: 7})
			}
		}
		if _, err := r.o.Delete(t.Context(), api.Pods, "default", "c", api.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
		r.start()
		r.after(time.Second)
		r.want("a", "Running ready=true main:running/0")
		r.want("b", "Running ready=true main:running/1")
		r.want("d", "Failed ready=false main:Error(7)/0")
		if got := r.get("a").Status.ContainerStatuses[0].ContainerID; got != was["a"] {
			t.Errorf("a's container is %s, was %s: not adopted", got, was["a"])
		}
		boxes, _ = r.engine.List(t.Context())
		if len(boxes) != 2 {
			t.Errorf("sandboxes %v", boxes)
		}
		r.del("a")
		r.after(time.Second)
		if !r.gone("a") {
			t.Error("an adopted pod can't be deleted")
		}
	})
}

func TestObjectsOutage(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.engine.Script("img", fake.Script{Runs: []fake.Run{{For: time.Minute, Code: 1}, {For: -1}}})
		r.pod("a")
		r.o.set(true)
		r.after(2 * time.Minute)
		r.want("a", "Running ready=true main:running/0")
		states, _ := r.agent.List(t.Context())
		if got := states[0].Status.ContainerStatuses[0].RestartCount; got != 1 {
			t.Errorf("restarts %d: the pod has to go on without Objects", got)
		}
		r.o.set(false)
		r.after(5 * time.Second)
		r.want("a", "Running ready=true main:running/1")
		r.del("a")
		r.o.set(true)
		r.after(time.Minute)
		r.o.set(false)
		r.after(5 * time.Second)
		if !r.gone("a") {
			t.Error("not deleted after the outage")
		}
	})
}

func TestStopAll(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.pod("a")
		r.pod("b", policy(corev1.RestartPolicyNever))
		if err := r.agent.StopAll(t.Context(), 10*time.Second); err != nil {
			t.Fatal(err)
		}
		boxes, _ := r.engine.List(t.Context())
		if len(boxes) != 0 {
			t.Errorf("left: %v", boxes)
		}
		r.want("a", "Running ready=false main:Completed(0)/0")
		r.stop()
		r.start()
		r.after(time.Second)
		r.want("a", "Running ready=true main:running/1")
		r.want("b", "Running ready=true main:running/1")
	})
}

func TestNodeAndLease(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.after(30 * time.Second)
		n, err := api.Get[*corev1.Node](t.Context(), r.o, api.Nodes, "", "n1")
		if err != nil {
			t.Fatal(err)
		}
		if n.Labels[corev1.LabelHostname] != "n1" || n.Spec.PodCIDR != "10.42.0.0/24" || n.Status.Capacity.Pods().Value() != 250 {
			t.Errorf("node %+v", n)
		}
		cpu, left := n.Status.Capacity.Cpu().MilliValue(), n.Status.Allocatable.Cpu().MilliValue()
		if cpu-left != 100 {
			t.Errorf("cpu %d, allocatable %d", cpu, left)
		}
		ready := ""
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				ready = string(c.Status)
			}
		}
		if ready != "True" {
			t.Errorf("conditions %v", n.Status.Conditions)
		}
		l, err := api.Get[*coordinationv1.Lease](t.Context(), r.o, api.Leases, api.SystemNamespace, "n1")
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(l.Spec.RenewTime.Time); age > time.Second {
			t.Errorf("lease is %s old", age)
		}
		// Somebody removes the Node: it comes back.
		if _, err := r.o.Delete(t.Context(), api.Nodes, "", "n1", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.after(11 * time.Second)
		if _, err := r.o.Get(t.Context(), api.Nodes, "", "n1"); err != nil {
			t.Errorf("after its deletion: %v", err)
		}
	})
}

// An agent that is told to end says for how long to wait, and the next one that it
// is there; one that ends its pods says nothing.
func TestAway(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		away := func() string {
			t.Helper()
			l, err := api.Get[*coordinationv1.Lease](t.Context(), r.o, api.Leases, api.SystemNamespace, "n1")
			if err != nil {
				t.Fatal(err)
			}
			return l.Annotations[api.AnnotationAway]
		}
		r.after(2 * time.Second)
		if s := away(); s != "" {
			t.Errorf("while it works it says to be away for %s", s)
		}
		// As after a change of the leader, it is not what this agent wrote last.
		if _, err := api.Mutate(t.Context(), r.o, api.Leases, api.SystemNamespace, "n1", api.UpdateOptions{}, func(l *coordinationv1.Lease) (bool, error) {
			l.Labels = map[string]string{"by": "another"}
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
		r.stop()
		if s := away(); s != "10s" {
			t.Errorf("at its end it says to be away for %q", s)
		}
		r.start()
		r.after(2 * time.Second)
		if s := away(); s != "" {
			t.Errorf("the next one says to be away for %s", s)
		}
		if err := r.agent.StopAll(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		r.stop()
		if s := away(); s != "" {
			t.Errorf("with all pods ended it says to be away for %s", s)
		}
		r.start() // the rig ends one
	})
}

// A renewal is one request, whatever others do to the lease; while nobody answers
// a node asks no more often than otherwise.
func TestRenewals(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		alive := func(what string) {
			t.Helper()
			l, err := api.Get[*coordinationv1.Lease](t.Context(), r.o, api.Leases, api.SystemNamespace, "n1")
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if age := time.Since(l.Spec.RenewTime.Time); age > time.Second {
				t.Errorf("%s: the lease is %s old", what, age)
			}
		}
		r.after(30 * time.Second)
		r.o.requests()
		r.after(10 * time.Second)
		if n := r.o.requests(); n < 10 || n > 13 {
			t.Errorf("%d requests in ten seconds, want ten renewals and a look at the Node", n)
		}
		if _, err := r.o.Patch(t.Context(), api.Leases, api.SystemNamespace, "n1", api.Patch{
			Type: "application/merge-patch+json", Data: []byte(`{"metadata":{"labels":{"x":"y"}}}`),
		}); err != nil {
			t.Fatal(err)
		}
		r.after(2 * time.Second)
		alive("somebody else wrote it")
		if _, err := r.o.Delete(t.Context(), api.Leases, api.SystemNamespace, "n1", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.after(2 * time.Second)
		alive("somebody removed it")
		r.o.set(true)
		r.after(2 * time.Second)
		r.o.requests()
		r.after(time.Minute)
		if n := r.o.requests(); n < 60 || n > 120 {
			t.Errorf("%d requests in a minute without an answer", n)
		}
		r.o.set(false)
		r.after(time.Second)
		alive("it answers again")
	})
}

// A server that holds a heartbeat, such as one that led until just now, does not have
// the node taken for lost.
func TestUnansweredRenewal(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.after(30 * time.Second)
		r.o.mu.Lock()
		r.o.silent = 1
		r.o.mu.Unlock()
		r.after(4200 * time.Millisecond) // what is in the lease is from before for up to a beat
		l, err := api.Get[*coordinationv1.Lease](t.Context(), r.o, api.Leases, api.SystemNamespace, "n1")
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(l.Spec.RenewTime.Time); age > time.Second {
			t.Errorf("the lease is %s old", age)
		}
	})
}

func TestEvict(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		p := r.pod("a")
		alone := p.DeepCopy()
		alone.Name, alone.UID, alone.ResourceVersion = "alone", "u2", ""
		if err := r.agent.Start(t.Context(), []*corev1.Pod{alone}); err != nil {
			t.Fatal(err)
		}
		r.after(time.Second)
		if l, _ := r.agent.List(t.Context()); len(l) != 2 || look(&corev1.Pod{Status: l[1].Status}) != "Running ready=true main:running/0" {
			t.Errorf("list %+v", l)
		}
		for _, uid := range []string{string(p.UID), "u2"} {
			if err := r.agent.Stop(t.Context(), types.UID(uid), time.Second); err != nil {
				t.Fatal(err)
			}
		}
		r.after(time.Second)
		r.want("a", "Succeeded ready=false main:Completed(0)/0")
		if l, _ := r.agent.List(t.Context()); len(l) != 0 {
			t.Errorf("list %+v", l)
		}
		// A change of the object does not bring it back, its removal is no fault.
		if _, err := r.o.Patch(t.Context(), api.Pods, "default", "a", api.Patch{
			Type: "application/merge-patch+json", Data: []byte(`{"metadata":{"labels":{"x":"y"}}}`),
		}); err != nil {
			t.Fatal(err)
		}
		r.after(time.Minute)
		if l, _ := r.agent.List(t.Context()); len(l) != 0 {
			t.Errorf("list %+v", l)
		}
	})
}

func TestForceDeletionAndSameName(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.engine.Script("img", fake.Script{IgnoreTERM: true})
		was := r.pod("a")
		if _, err := r.o.Delete(t.Context(), api.Pods, "default", "a", api.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
		now := r.pod("a")
		r.after(10 * time.Second)
		r.want("a", "Running ready=true main:running/0")
		boxes, _ := r.engine.List(t.Context())
		if len(boxes) != 1 || boxes[0].UID != now.UID || now.UID == was.UID {
			t.Errorf("sandboxes %+v", boxes)
		}
	})
}

// TestStatusWrites counts: a start costs few writes, and what others own stays.
func TestStatusWrites(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.engine.Script("img", fake.Script{PullDelay: 40 * time.Millisecond, StartDelay: 30 * time.Millisecond, ReadyAfter: 20 * time.Millisecond})
		r.pod("a", function, func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: "example.org/theirs", Status: corev1.ConditionTrue}}
		})
		p := r.get("a")
		p = p.DeepCopy()
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: "example.org/theirs", Status: corev1.ConditionTrue})
		if _, err := r.o.Update(t.Context(), p, api.UpdateOptions{Subresource: "status"}); err != nil {
			t.Fatal(err)
		}
		r.o.count()
		r.after(time.Second)
		r.want("a", "Running ready=true main:running/0")
		if n := r.o.count(); n > 2 {
			t.Errorf("%d writes for one start", n)
		}
		theirs := false
		for _, c := range r.get("a").Status.Conditions {
			theirs = theirs || c.Type == "example.org/theirs"
		}
		if !theirs {
			t.Error("a condition of somebody else was dropped")
		}
		r.after(30 * time.Second)
		if n := r.o.count(); n > 35+3 { // the lease each second, the node now and then
			t.Errorf("%d writes in 30 s of nothing", n)
		}
	})
}

func TestMetrics(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.pod("a", function)
		r.after(10 * time.Second)
		all, err := r.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, f := range all {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetName() + "=" + l.GetValue()
				}
				switch {
				case m.GetHistogram() != nil:
					got[name] = fmt.Sprint(m.GetHistogram().GetSampleCount())
				case m.GetCounter() != nil:
					got[name] = fmt.Sprint(m.GetCounter().GetValue())
				default:
					got[name] = fmt.Sprint(m.GetGauge().GetValue())
				}
			}
		}
		want := map[string]string{
			"kubelet_running_pods": "1", "kubelet_pod_start_duration_seconds": "1",
			"faas_pod_start_stage_seconds stage=image": "1", "faas_pod_start_stage_seconds stage=sandbox": "1",
			"faas_pod_thaw_seconds": "0", "faas_pods_frozen": "0",
			"faas_reconcile_duration_seconds loop=disks": "0", "faas_reconcile_faults_total loop=disks": "0", "faas_reconcile_queue_depth loop=disks": "0",
			"faas_reconcile_duration_seconds loop=mirror-pods": "0", "faas_reconcile_faults_total loop=mirror-pods": "0", "faas_reconcile_queue_depth loop=mirror-pods": "0",
			"faas_pod_start_stage_seconds stage=container": "1", "faas_pod_start_stage_seconds stage=ready": "1",
			"kubelet_runtime_operations_total operation_type=pull_image": "1", "kubelet_runtime_operations_duration_seconds operation_type=pull_image": "1",
			"kubelet_runtime_operations_total operation_type=run_podsandbox": "1", "kubelet_runtime_operations_duration_seconds operation_type=run_podsandbox": "1",
			"kubelet_runtime_operations_total operation_type=start_container": "1", "kubelet_runtime_operations_duration_seconds operation_type=start_container": "1",
			"pod_cpu_usage_seconds_total function_name=a.default namespace=default pod=a":  "10",
			"pod_memory_working_set_bytes function_name=a.default namespace=default pod=a": "1.048576e+06",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// TestManyAtOnce starts and deletes many pods at the same time.
func TestManyAtOnce(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.engine.Script("img", fake.Script{PullDelay: time.Second, StartDelay: time.Second})
		begin := time.Now()
		for i := range 200 {
			r.pod(fmt.Sprint("p", i), function)
		}
		r.after(2100 * time.Millisecond)
		if d := time.Since(begin); d > 3*time.Second {
			t.Fatalf("took %s", d)
		}
		for i := range 200 {
			r.want(fmt.Sprint("p", i), "Running ready=true main:running/0")
			r.del(fmt.Sprint("p", i))
		}
		r.after(time.Second)
		if boxes, _ := r.engine.List(t.Context()); len(boxes) != 0 {
			t.Errorf("%d sandboxes left", len(boxes))
		}
	})
}
