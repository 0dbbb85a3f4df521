package fleet_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

var sleepy = map[string]string{"zero": "true", "zero-duration": "10m"}

// replica is a ready pod that the agent has too.
func (r *rig) replica(name, ip string) *corev1.Pod {
	r.Helper()
	p := r.pod(name)
	if err := r.agent.Start(r.ctx, []*corev1.Pod{p}); err != nil {
		r.Fatal(err)
	}
	r.status(name, running(ip))
	return p
}

// frozen reports whether the agent has frozen the pod.
func (r *rig) frozen(p *corev1.Pod) bool {
	r.Helper()
	synctest.Wait()
	pods, err := r.agent.List(r.ctx)
	if err != nil {
		r.Fatal(err)
	}
	for _, s := range pods {
		if s.UID == p.UID {
			return api.IsFrozen(&s.Status)
		}
	}
	return false
}

// later is the round of the pod, which has to be one after n.
func (r *rig) later(s api.EndpointStream, pod types.UID, n uint64) uint64 {
	r.Helper()
	next := round(s, pod)
	if next <= n {
		r.Fatalf("round %d after %d", next, n)
	}
	return next
}

// round is the last one that the stream tells of the pod; 0 if none.
func round(s api.EndpointStream, pod types.UID) (n uint64) {
	synctest.Wait()
	for {
		select {
		case e := <-s.Events():
			if e.Endpoint.Pod == pod {
				n = e.Endpoint.Frozen
			}
		default:
			return n
		}
	}
}

func (r *rig) leave(gateway string, pod types.UID, round uint64) {
	r.Helper()
	if err := r.fleet.GiveLeave(r.ctx, gateway, []api.Leave{{Pod: pod, Round: round}}); err != nil {
		r.Fatal(err)
	}
	synctest.Wait()
}

// A replica is frozen when its function is idle and every gateway has given
// leave for this very round.
func TestFreezes(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, sleepy)
		p := r.replica("a", "10.0.0.1")
		g1, g2 := r.open("g1"), r.open("g2")
		round(g1, p.UID)
		r.pass(9 * time.Second)
		r.report("g1", api.Demand{InFlight: 1, Arrived: 1})
		r.report("g1", api.Demand{Arrived: 1})
		r.pass(3 * time.Second) // the fleet has settled
		want(r, round(g1, p.UID), 0)
		r.pass(3 * time.Second)
		n := round(g1, p.UID)
		if n == 0 || n != round(g2, p.UID) {
			r.Fatalf("round %d: both gateways have to be told the same", n)
		}
		r.leave("g1", p.UID, n)
		want(r, r.frozen(p), false)
		r.leave("g2", p.UID, n-1) // late, of another round
		want(r, r.frozen(p), false)
		r.leave("g2", p.UID, n)
		want(r, r.frozen(p), true)
		r.pass(time.Minute)
		want(r, round(g1, p.UID), 0) // it is idle still: no other round

		// It is thawed, used and idle again: another round.
		if err := r.agent.SetFrozen(r.ctx, p.UID, n, false); err != nil {
			r.Fatal(err)
		}
		r.report("g1", api.Demand{InFlight: 1, Arrived: 2})
		r.report("g1", api.Demand{Arrived: 2})
		r.pass(7 * time.Second)
		next := r.later(g1, p.UID, n)
		r.leave("g1", p.UID, n)
		r.leave("g2", p.UID, n)
		want(r, r.frozen(p), false)
		r.leave("g1", p.UID, next)
		r.leave("g2", p.UID, next)
		want(r, r.frozen(p), true)
	})
}

// A gateway that has ended a round at the agent before the fleet asks: the
// replica runs, and is tried again while the function is idle.
func TestFreezeComesTooLate(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, sleepy)
		p := r.replica("a", "10.0.0.1")
		g := r.open("g")
		r.pass(12 * time.Second)
		n := round(g, p.UID)
		if n == 0 {
			r.Fatal("there is no round")
		}
		if err := r.agent.SetFrozen(r.ctx, p.UID, n, false); err != nil {
			r.Fatal(err)
		}
		r.leave("g", p.UID, n)
		want(r, r.frozen(p), false)
		r.pass(6 * time.Second)
		next := r.later(g, p.UID, n)
		r.leave("g", p.UID, next)
		want(r, r.frozen(p), true)
	})
}

// While a gateway that was connected is away nothing is frozen: it may send to
// the replica without knowing. For ever it is not waited for.
func TestFreezeWaitsForAnAbsentGateway(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, sleepy)
		p := r.replica("a", "10.0.0.1")
		g := r.open("g")
		r.pass(8 * time.Second)
		g.Stop()
		r.pass(30 * time.Second)
		want(r, r.frozen(p), false)
		r.pass(40 * time.Second)
		want(r, r.frozen(p), true)
		// Who comes later is told at the beginning.
		if n := round(r.open("late"), p.UID); n == 0 {
			r.Error("a gateway that has just come takes the replica for a running one")
		}
	})
}

// A fleet that has just started learns from the pod that it is frozen, and
// tells the gateways before anything else.
func TestFrozenOutlivesTheFleet(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, sleepy)
		p := r.replica("a", "10.0.0.1")
		r.pass(15 * time.Second)
		want(r, r.frozen(p), true)
		s := running("10.0.0.1")
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: api.ConditionFrozen, Status: corev1.ConditionTrue})
		r.status("a", s)
		r.end()
		synctest.Wait()
		r.start()
		if n := round(r.open("g"), p.UID); n == 0 {
			r.Error("the gateway takes the replica for a running one")
		}
	})
}

// What flaps keeps its round: the agent may be about to freeze it.
func TestFrozenAndUnready(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, sleepy)
		p := r.replica("a", "10.0.0.1")
		g := r.open("g")
		r.pass(12 * time.Second)
		n := round(g, p.UID)
		r.status("a", corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"})
		r.status("a", running("10.0.0.1"))
		if again := round(g, p.UID); n == 0 || again < n {
			r.Errorf("round %d, then %d", n, again)
		}
	})
}

// A replica that was thawed for something that no gateway knows of is frozen
// again.
func TestFreezesAgain(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, sleepy)
		p := r.replica("a", "10.0.0.1")
		r.pass(15 * time.Second)
		want(r, r.frozen(p), true)
		s := running("10.0.0.1")
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: api.ConditionFrozen, Status: corev1.ConditionTrue})
		r.status("a", s)
		if err := r.agent.SetFrozen(r.ctx, p.UID, 1, false); err != nil { // a command is executed in it
			r.Fatal(err)
		}
		r.status("a", running("10.0.0.1"))
		want(r, r.frozen(p), false)
		r.pass(10 * time.Second)
		want(r, r.frozen(p), true)
	})
}

func TestBusyAndLastingFunctionsAreNotFrozen(t *testing.T) {
	for name, labels := range map[string]map[string]string{"busy": sleepy, "never at zero": nil} {
		t.Run(name, func(t *testing.T) {
			in(t, func(r *rig) {
				r.deploy(1, labels)
				p := r.replica("a", "10.0.0.1")
				g := r.open("g")
				for i := range 30 {
					if name == "busy" {
						r.report("g", api.Demand{InFlight: 1, Arrived: uint64(i)})
					}
					r.pass(time.Second)
				}
				want(r, round(g, p.UID), 0)
				want(r, r.frozen(p), false)
			})
		})
	}
}

// unable is an agent that cannot freeze.
type unable struct {
	api.Agent
	asked *int
}

func (u unable) SetFrozen(context.Context, types.UID, uint64, bool) error {
	*u.asked++
	return apierrors.NewMethodNotSupported(api.Pods.GR(), "freeze")
}

// A runtime that can't freeze is asked once.
func TestFreezeIsNotSupported(t *testing.T) {
	in(t, func(r *rig) {
		asked := 0
		r.agents = func(context.Context, string) (api.Agent, error) { return unable{r.agent, &asked}, nil }
		r.deploy(1, sleepy)
		r.replica("a", "10.0.0.1")
		for i := range 3 {
			r.report("g", api.Demand{InFlight: 1, Arrived: uint64(i)})
			r.report("g", api.Demand{Arrived: uint64(i)})
			r.pass(time.Minute)
		}
		want(r, asked, 1)
	})
}
