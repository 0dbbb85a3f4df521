package fleet_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"github.com/podsnap/podsnap/controlplane/fleet"
	"github.com/podsnap/podsnap/functions"
	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var resize = types.NamespacedName{Namespace: "openfaas-fn", Name: "resize"}

// rig is a fleet over objects in memory, in a bubble.
type rig struct {
	*testing.T
	ctx     context.Context
	objects api.Objects
	fleet   *fleet.Fleet
	agent   *memory.Agent // of every node
	agents  func(ctx context.Context, node string) (api.Agent, error)
	end     func() // ends the fleet
}

func in(t *testing.T, f func(*rig)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := &rig{T: t, ctx: ctx, objects: memory.New(memory.Config{}), agent: memory.NewAgent()}
		r.agents = func(context.Context, string) (api.Agent, error) { return r.agent, nil }
		r.start()
		f(r)
		cancel()
		synctest.Wait()
	})
}

func (r *rig) start() {
	f, err := fleet.New(fleet.Config{
		Objects: r.objects, Settle: 10 * time.Second,
		Agents: func(ctx context.Context, node string) (api.Agent, error) { return r.agents(ctx, node) },
		Policy: func(d *appsv1.Deployment) autoscale.Policy {
			return autoscale.Policy{Scale: functions.Scaling(d.Labels)}
		},
	})
	if err != nil {
		r.Fatal(err)
	}
	r.run(f)
}

func (r *rig) run(f *fleet.Fleet) {
	ctx, cancel := context.WithCancel(r.ctx)
	r.fleet, r.end = f, cancel
	go func() { _ = f.Run(ctx) }()
	synctest.Wait()
}

// policy is that of scaling labels without their prefix.
func policy(labels map[string]string) autoscale.Policy {
	l := map[string]string{}
	for k, v := range labels {
		l[functions.LabelScalePrefix+k] = v
	}
	return autoscale.Policy{Scale: functions.Scaling(l)}
}

func (r *rig) deploy(replicas int32, labels map[string]string) {
	r.Helper()
	r.create(replicas, labels)
	synctest.Wait()
}

func (r *rig) create(replicas int32, labels map[string]string) {
	r.Helper()
	l := map[string]string{api.LabelFunction: resize.Name}
	for k, v := range labels {
		l[functions.LabelScalePrefix+k] = v
	}
	_, err := r.objects.Create(r.ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: resize.Namespace, Name: resize.Name, Labels: l},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas},
	})
	if err != nil {
		r.Fatal(err)
	}
}

// pass lets time pass.
func (r *rig) pass(d time.Duration) { time.Sleep(d) }

func (r *rig) replicas() int32 {
	r.Helper()
	synctest.Wait()
	d, err := api.Get[*appsv1.Deployment](r.ctx, r.objects, api.Deployments, resize.Namespace, resize.Name)
	if err != nil {
		r.Fatal(err)
	}
	return *d.Spec.Replicas
}

func (r *rig) decisions() []api.ScaleDecision {
	r.Helper()
	ds, err := r.fleet.Decisions(r.ctx, resize)
	if err != nil {
		r.Fatal(err)
	}
	return ds
}

func (r *rig) report(gateway string, d api.Demand) {
	r.Helper()
	d.Function = resize
	if err := r.fleet.Report(r.ctx, gateway, []api.Demand{d}); err != nil {
		r.Fatal(err)
	}
}

// pod makes a pod of the function that is bound to a node.
func (r *rig) pod(name string) *corev1.Pod {
	r.Helper()
	p, err := api.Create(r.ctx, r.objects, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: resize.Namespace, Name: name, Labels: map[string]string{api.LabelFunction: resize.Name},
			Annotations: map[string]string{api.AnnotationConcurrency: "7", api.AnnotationTimeout: "3s"},
		},
		Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}}, TerminationGracePeriodSeconds: new(int64(30))},
	})
	if err != nil {
		r.Fatal(err)
	}
	return p
}

func (r *rig) status(name string, s corev1.PodStatus) {
	r.Helper()
	r.setStatus(name, s)
	synctest.Wait()
}

func (r *rig) setStatus(name string, s corev1.PodStatus) {
	r.Helper()
	_, err := api.Mutate(r.ctx, r.objects, api.Pods, resize.Namespace, name, api.UpdateOptions{Subresource: "status"}, func(p *corev1.Pod) (bool, error) {
		p.Status = s
		return true, nil
	})
	if err != nil {
		r.Fatal(err)
	}
}

func running(ip string) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
}

func waiting(reason string, restarts int32) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
		RestartCount: restarts, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "because"}},
	}}}
}

func (r *rig) delete(name string) {
	r.Helper()
	r.remove(name, api.DeleteOptions{})
	synctest.Wait()
}

func (r *rig) open(gateway string) api.EndpointStream {
	r.Helper()
	s, err := r.fleet.Endpoints(r.ctx, gateway)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

// told is what a stream holds now.
func told(s api.EndpointStream) string {
	synctest.Wait()
	var out []string
	for {
		select {
		case e, ok := <-s.Events():
			if !ok {
				return strings.Join(append(out, "closed"), " ")
			}
			switch e.Type {
			case api.EndpointsSynced:
				out = append(out, "SYNCED")
			case api.EndpointsFailing:
				out = append(out, fmt.Sprintf("FAILED(%s)", e.Reason))
			default:
				out = append(out, fmt.Sprintf("%s(%s)", e.Type, e.Endpoint.Name))
			}
		default:
			return strings.Join(out, " ")
		}
	}
}

func (r *rig) drained(name string) bool {
	r.Helper()
	synctest.Wait()
	p, err := api.Get[*corev1.Pod](r.ctx, r.objects, api.Pods, resize.Namespace, name)
	if err != nil {
		r.Fatal(err)
	}
	return p.Annotations[api.AnnotationDrained] != ""
}

func want[T comparable](r *rig, got, want T) {
	r.Helper()
	if got != want {
		r.Fatalf("got %v, want %v", got, want)
	}
}

func TestWakesAtOnceAndSleepsAgain(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(0, map[string]string{"zero": "true", "zero-duration": "1m"})
		begin := time.Now()
		r.report("g1", api.Demand{Queued: 3, Arrived: 3})
		want(r, r.replicas(), 1)
		want(r, time.Since(begin), 0) // no tick stands between the request and the decision
		for i := range 30 {
			time.Sleep(time.Second)
			r.report("g1", api.Demand{InFlight: 1, Arrived: uint64(4 + i)})
		}
		r.report("g1", api.Demand{Arrived: 40})
		time.Sleep(59 * time.Second)
		want(r, r.replicas(), 1)
		time.Sleep(2 * time.Second)
		want(r, r.replicas(), 0)
		var changes []string
		for _, d := range r.decisions() {
			if d.From != d.To {
				changes = append(changes, fmt.Sprintf("%d→%d %s %d", d.From, d.To, d.Rule, d.Inputs.Queued))
			}
		}
		want(r, strings.Join(changes, ", "), "0→1 wake 3, 1→0 idle 0")
	})
}

func TestSumsGatewaysAndForgetsTheSilent(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, map[string]string{"type": "capacity", "target": "1", "target-proportion": "1", "down.window": "1s", "max": "20"})
		time.Sleep(11 * time.Second) // settled
		r.report("g1", api.Demand{InFlight: 4})
		r.report("g2", api.Demand{InFlight: 5})
		want(r, r.replicas(), 9)
		for range 4 { // g2 has died
			time.Sleep(time.Second)
			r.report("g1", api.Demand{InFlight: 4})
		}
		time.Sleep(500 * time.Millisecond)
		r.report("g1", api.Demand{InFlight: 4})
		want(r, r.replicas(), 4)
	})
}

func TestNothingGoesDownAfterAStart(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(5, map[string]string{"type": "capacity", "zero": "true", "zero-duration": "1s", "down.window": "1s"})
		time.Sleep(9 * time.Second)
		want(r, r.replicas(), 5)
		time.Sleep(3 * time.Second)
		want(r, r.replicas(), 0)
	})
}

func TestUnknownFunctionsLeaveNoTrace(t *testing.T) {
	in(t, func(r *rig) {
		r.report("g1", api.Demand{Queued: 1})
		time.Sleep(time.Minute)
		if d := r.decisions(); d != nil {
			r.Fatalf("decided %v", d)
		}
	})
}

func TestEndpoints(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(2, nil)
		r.pod("a")
		early := r.open("g1")
		want(r, told(early), "SYNCED")
		r.status("a", running("10.0.0.1"))
		e := <-early.Events()
		if s := e.Endpoint.Start; s.Created.IsZero() || s.Placed.Before(s.Created) || s.Ready.Before(s.Placed) {
			r.Fatalf("start %+v", s)
		}
		e.Endpoint.Start = api.Start{}
		want(r, e.Endpoint, api.Endpoint{Pod: e.Endpoint.Pod, Name: "a", Node: "n", Address: "10.0.0.1:8080", Concurrency: 7, Timeout: 3 * time.Second})
		r.pod("b")
		r.status("b", running("10.0.0.2"))
		late := r.open("g2")
		got := told(late)
		if got != "READY(a) READY(b) SYNCED" && got != "READY(b) READY(a) SYNCED" {
			r.Fatal(got)
		}
		want(r, told(early), "READY(b)")
		r.status("b", corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.2"})
		want(r, told(early), "GONE(b)")
		r.status("b", running("10.0.0.2"))
		want(r, told(early), "READY(b)")
		late.Stop()
		want(r, told(late), "GONE(b) READY(b) closed")
		if late.Err() != nil {
			r.Fatal(late.Err())
		}
	})
}

// SIGTERM waits until every connected gateway has said that it is done.
func TestDrain(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, nil)
		p := r.pod("a")
		r.status("a", running("10.0.0.1"))
		one, two := r.open("g1"), r.open("g2")
		told(one)
		time.Sleep(4 * time.Second) // no gateway is on its way back
		r.delete("a")
		want(r, told(one), "DRAIN(a)")
		want(r, r.drained("a"), false)
		if err := r.fleet.Drained(r.ctx, "g1", []types.UID{p.UID}); err != nil {
			r.Fatal(err)
		}
		want(r, r.drained("a"), false)
		two.Stop() // a gateway that is gone is not waited for
		want(r, r.drained("a"), true)
		want(r, told(one), "GONE(a)")
	})
}

// A replica that drains is not told as ready because something else of it changes.
func TestDrainIsNotTakenBack(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, nil)
		r.pod("a")
		r.status("a", running("10.0.0.1"))
		s := r.open("g1")
		told(s)
		time.Sleep(4 * time.Second)
		r.delete("a")
		want(r, told(s), "DRAIN(a)")
		r.status("a", running("10.0.0.2"))
		want(r, told(s), "")
		want(r, told(r.open("g2")), "DRAIN(a) SYNCED")
	})
}

func TestDrainWithoutGateways(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, nil)
		r.pod("a")
		r.status("a", running("10.0.0.1"))
		time.Sleep(4 * time.Second)
		r.delete("a")
		want(r, r.drained("a"), true)
	})
}

// A pod that was never ready has nothing to drain.
func TestDrainOfAnUnready(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, nil)
		s := r.open("g1")
		r.pod("a")
		r.delete("a")
		want(r, r.drained("a"), true)
		want(r, told(s), "SYNCED")
	})
}

func TestFailing(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, nil)
		s := r.open("g1")
		r.pod("a")
		r.status("a", waiting("ContainerCreating", 0))
		want(r, told(s), "SYNCED")
		r.status("a", waiting("CrashLoopBackOff", 0))
		want(r, told(s), "")
		r.status("a", waiting("CrashLoopBackOff", 2))
		want(r, told(s), "FAILED(CrashLoopBackOff: because)")
		r.status("a", waiting("CrashLoopBackOff", 2))
		want(r, told(s), "")
		late := r.open("g2")
		want(r, told(late), "FAILED(CrashLoopBackOff: because) SYNCED")
		r.status("a", running("10.0.0.1"))
		want(r, told(s), "READY(a)")
		r.pod("b")
		r.status("b", waiting("ImagePullBackOff", 0))
		want(r, told(s), "") // a serves
	})
}

// Who scales a function to zero right after its last call is not overruled by
// the report that was made while the call waited; a call that waits still is
// reported again and counts.
func TestScaledToZeroByHand(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(0, map[string]string{"min": "0"})
		r.report("g", api.Demand{Queued: 1, Arrived: 1})
		if n := r.replicas(); n != 1 {
			t.Fatalf("%d replicas for a call that waits, want 1", n)
		}
		r.scale(0)
		r.pass(time.Second)
		if n := r.replicas(); n != 0 {
			t.Errorf("%d replicas, want none: the report is from before", n)
		}
		r.report("g", api.Demand{Queued: 1, Arrived: 1})
		if n := r.replicas(); n != 1 {
			t.Errorf("%d replicas, want 1: the call waits still", n)
		}
	})
}

// scale is what a person does.
func (r *rig) scale(n int32) {
	r.Helper()
	_, err := api.Mutate(r.ctx, r.objects, api.Deployments, resize.Namespace, resize.Name, api.UpdateOptions{}, func(d *appsv1.Deployment) (bool, error) {
		d.Spec.Replicas = &n
		return true, nil
	})
	if err != nil {
		r.Fatal(err)
	}
}
