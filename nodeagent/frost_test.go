package nodeagent_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime/fake"
)

// probed is a function whose probes ask every second and do not forgive.
func probed(p *corev1.Pod) {
	function(p)
	ask := &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}},
		PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 1, SuccessThreshold: 1,
	}
	p.Spec.Containers[0].LivenessProbe, p.Spec.Containers[0].ReadinessProbe = ask, ask
}

func (r *rig) setFrozen(p *corev1.Pod, round uint64, frozen bool) {
	r.t.Helper()
	if err := r.agent.SetFrozen(r.t.Context(), p.UID, round, frozen); err != nil {
		r.t.Fatalf("frozen %v in round %d: %v", frozen, round, err)
	}
	r.after(time.Second) // its status is written
	if got := api.IsFrozen(&r.get(p.Name).Status); got != frozen {
		r.t.Errorf("the condition says frozen %v, want %v", got, frozen)
	}
}

// Probes of a frozen pod would fail: none may be asked, and after the thaw they
// are again.
func TestFrozenIsNotProbed(t *testing.T) {
	node(t, func(r *rig) {
		p := r.pod("a", probed)
		r.after(10 * time.Second)
		r.setFrozen(p, 1, true)
		r.after(time.Hour)
		r.want("a", "Running ready=true main:running/0")
		r.setFrozen(p, 1, false)
		r.after(10 * time.Second)
		r.want("a", "Running ready=true main:running/0")
		boxes, _ := r.engine.List(r.t.Context())
		if err := r.engine.Freeze(r.t.Context(), boxes[0].Containers[0].ID); err != nil { // as a process that hangs
			r.t.Fatal(err)
		}
		r.after(10 * time.Second)
		if !r.events.has("Liveness probe failed") {
			r.t.Error("it is not probed after the thaw")
		}
	})
}

// A frozen pod that is deleted gets its SIGTERM, and not only the SIGKILL at
// the end of the grace period.
func TestFrozenIsStoppedGracefully(t *testing.T) {
	for name, end := range map[string]func(*rig, *corev1.Pod) error{
		"deleted": func(r *rig, p *corev1.Pod) error { r.del(p.Name); return nil },
		"stopped": func(r *rig, p *corev1.Pod) error { return r.agent.Stop(r.t.Context(), p.UID, 30*time.Second) },
		"all":     func(r *rig, _ *corev1.Pod) error { return r.agent.StopAll(r.t.Context(), 30*time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			node(t, func(r *rig) {
				p := r.pod("a", function)
				r.after(2 * time.Second)
				r.setFrozen(p, 1, true)
				if err := end(r, p); err != nil {
					r.t.Fatal(err)
				}
				r.after(time.Second)
				if err := r.agent.SetFrozen(r.t.Context(), p.UID, 2, true); err == nil {
					r.t.Error("a pod that has ended is frozen")
				}
				calls := r.engine.Calls()
				thaw := slices.IndexFunc(calls, func(s string) bool { return strings.HasPrefix(s, "Thaw") })
				term := slices.Index(calls, "Signal main 15")
				if thaw < 0 || term < thaw || slices.Contains(calls, "Signal main 9") {
					r.t.Errorf("calls %v", calls)
				}
			})
		})
	}
}

// What ends although it is frozen (out of memory, killed by hand) starts again,
// which it cannot in frozen control groups.
func TestFrozenRestarts(t *testing.T) {
	node(t, func(r *rig) {
		p := r.pod("a", function)
		r.after(2 * time.Second)
		r.setFrozen(p, 1, true)
		boxes, _ := r.engine.List(r.t.Context())
		r.engine.Kill(boxes[0].Containers[0].ID, fake.Run{Code: 137})
		r.after(5 * time.Second)
		r.want("a", "Running ready=true main:running/1")
		if api.IsFrozen(&r.get("a").Status) {
			r.t.Error("the new container counts as frozen")
		}
	})
}

// The next agent finds a pod frozen, leaves it so, and thaws it when it is
// asked.
func TestFrozenIsAdopted(t *testing.T) {
	node(t, func(r *rig) {
		p := r.pod("a", probed)
		r.after(2 * time.Second)
		r.setFrozen(p, 7, true)
		r.stop()
		r.start()
		r.after(time.Minute)
		r.want("a", "Running ready=true main:running/0")
		if !api.IsFrozen(&r.get("a").Status) {
			r.t.Error("it is not known any more that the pod is frozen")
		}
		if n := value(r, "faas_pods_frozen"); n != 1 {
			r.t.Errorf("%v pods are counted as frozen", n)
		}
		r.setFrozen(p, 7, false)
		r.after(time.Minute)
		r.want("a", "Running ready=true main:running/0")
		if n := value(r, "faas_pod_thaw_seconds"); n != 1 {
			r.t.Errorf("%v thaws are counted", n)
		}
		boxes, _ := r.engine.List(r.t.Context())
		if frozen, err := r.engine.Frozen(r.t.Context(), boxes[0].Containers[0].ID); frozen || err != nil {
			r.t.Errorf("frozen %v, %v", frozen, err)
		}
	})
}

func TestFreezeIsRefused(t *testing.T) {
	node(t, func(r *rig) {
		r.engine.Script("runc", fake.Script{NoFreezer: true})
		r.engine.Script("late", fake.Script{ReadyAfter: time.Hour})
		unable := r.pod("unable", function, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "runc" })
		late := r.pod("late", function, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "late" })
		r.after(2 * time.Second)
		if err := r.agent.SetFrozen(r.t.Context(), unable.UID, 1, true); !apierrors.IsMethodNotSupported(err) {
			r.t.Errorf("a runtime without a freezer: %v", err)
		}
		if err := r.agent.SetFrozen(r.t.Context(), unable.UID, 1, false); err != nil {
			r.t.Errorf("thaw: %v", err)
		}
		if err := r.agent.SetFrozen(r.t.Context(), late.UID, 1, true); !apierrors.IsConflict(err) {
			r.t.Errorf("a pod that is not ready: %v", err)
		}
		if err := r.agent.SetFrozen(r.t.Context(), "nobody", 1, true); !apierrors.IsNotFound(err) {
			r.t.Errorf("a pod that is not there: %v", err)
		}
		r.after(2 * time.Second)
		r.want("unable", "Running ready=true main:running/0")
		if api.IsFrozen(&r.get("unable").Status) {
			r.t.Error("it counts as frozen")
		}
	})
}

// value is a metric's, of a histogram the count.
func value(r *rig, name string) float64 {
	r.t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		if h := f.GetMetric()[0].GetHistogram(); h != nil {
			return float64(h.GetSampleCount())
		}
		return f.GetMetric()[0].GetGauge().GetValue()
	}
	r.t.Fatalf("there is no metric %s", name)
	return 0
}
