package seamtest

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/types"
)

// CapacityRig is an api.Capacity and the hands on what stands behind it. Each
// takes effect before long, not at its return. Function exists and has no
// replicas at the beginning.
type CapacityRig struct {
	Capacity api.Capacity
	Function types.NamespacedName

	Ready   func(pod string) api.Endpoint   // a new replica becomes ready; answers with its endpoint
	Delete  func(pod string)                // a replica is told to end, which it does when it is drained
	Lose    func(pod string)                // a replica is gone, drained or not
	Fail    func(reason string)             // no replica can be had
	Wanted  func() int                      // replicas that are wanted now
	Drained func(pod string) (drained bool) // every gateway has let go of the replica
}

// Capacity checks an api.Capacity. open makes one for each part, running, and
// cleans up with t. No gateway must be connected to it, nor any be expected.
func Capacity(t *testing.T, open func(t *testing.T) CapacityRig) {
	t.Helper()
	for _, part := range []struct {
		name string
		run  func(*capacity)
	}{
		{"StreamBegins", streamBegins},
		{"StreamFollows", streamFollows},
		{"StreamEnds", streamEnds},
		{"StreamFails", streamFails},
		{"DemandWakes", demandWakes},
		{"UnknownFunction", unknownFunction},
		{"DecisionsAreTold", decisionsAreTold},
		{"DrainsWhenAllHaveAnswered", drainsWhenAllHaveAnswered},
		{"DrainsWithoutGateways", drainsWithoutGateways},
		{"DrainForgetsGatewaysThatLeft", drainForgetsGatewaysThatLeft},
		{"DrainIsToldAgain", drainIsToldAgain},
		{"LeaveUnasked", leaveUnasked},
	} {
		t.Run(part.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			part.run(&capacity{T: t, CapacityRig: open(t), ctx: func() context.Context { return ctx }})
		})
	}
}

type capacity struct {
	*testing.T
	CapacityRig
	ctx func() context.Context
}

func (c *capacity) open(gateway string) api.EndpointStream {
	c.Helper()
	s, err := c.Capacity.Endpoints(c.ctx(), gateway)
	if err != nil {
		c.Fatalf("endpoints: %v", err)
	}
	c.Cleanup(s.Stop)
	return s
}

// next is the stream's next event, which has to come.
func (c *capacity) next(s api.EndpointStream) api.EndpointEvent {
	c.Helper()
	select {
	case e, ok := <-s.Events():
		if !ok {
			c.Fatalf("the stream ended: %v", s.Err())
		}
		e.Endpoint.Start = api.Start{} // not every implementation knows
		return e
	case <-c.ctx().Done():
		c.Fatal("an event did not come")
	}
	return api.EndpointEvent{}
}

func (c *capacity) expect(s api.EndpointStream, t api.EndpointEventType, e api.Endpoint) {
	c.Helper()
	want := api.EndpointEvent{Type: t, Function: c.Function, Endpoint: e}
	if t == api.EndpointsSynced {
		want.Function = types.NamespacedName{}
	}
	if d := cmp.Diff(want, c.next(s)); d != "" {
		c.Fatalf("event (-want +got):\n%s", d)
	}
}

func (c *capacity) expectEnd(s api.EndpointStream) {
	c.Helper()
	select {
	case e, ok := <-s.Events():
		if ok {
			c.Fatalf("got %v, want the end of the stream", e)
		}
	case <-c.ctx().Done():
		c.Fatal("the stream did not end")
	}
}

// until waits for a state that no method of the seam announces.
func (c *capacity) until(what string, ok func() bool) {
	c.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-c.ctx().Done():
			c.Fatalf("it did not come to this: %s", what)
		}
	}
}

func (c *capacity) report(gateway string, d api.Demand) {
	c.Helper()
	if err := c.Capacity.Report(c.ctx(), gateway, []api.Demand{d}); err != nil {
		c.Fatalf("report: %v", err)
	}
}

func (c *capacity) drained(gateway string, pods ...types.UID) {
	c.Helper()
	if err := c.Capacity.Drained(c.ctx(), gateway, pods); err != nil {
		c.Fatalf("drained: %v", err)
	}
}

// synced opens a stream that has told that there is nothing.
func (c *capacity) synced(gateway string) api.EndpointStream {
	c.Helper()
	s := c.open(gateway)
	c.expect(s, api.EndpointsSynced, api.Endpoint{})
	return s
}

// leaveUnasked: leave for what nobody wants to freeze changes nothing.
func leaveUnasked(c *capacity) {
	s := c.synced("g1")
	a := c.Ready("a")
	c.expect(s, api.EndpointReady, a)
	if err := c.Capacity.GiveLeave(c.ctx(), "g1", []api.Leave{{Pod: a.Pod, Round: 1}, {Pod: "nobody", Round: 2}}); err != nil {
		c.Fatalf("leave: %v", err)
	}
	c.Delete("a")
	c.expect(s, api.EndpointDrain, a)
}

func streamBegins(c *capacity) {
	early := c.synced("g1")
	a, b := c.Ready("a"), c.Ready("b")
	c.expect(early, api.EndpointReady, a)
	c.expect(early, api.EndpointReady, b)
	late := c.open("g2")
	got := map[types.UID]api.Endpoint{}
	for range 2 {
		e := c.next(late)
		if e.Type != api.EndpointReady || e.Function != c.Function {
			c.Fatalf("got %v before SYNCED, want READY", e)
		}
		got[e.Endpoint.Pod] = e.Endpoint
	}
	if d := cmp.Diff(map[types.UID]api.Endpoint{a.Pod: a, b.Pod: b}, got); d != "" {
		c.Errorf("initial state (-want +got):\n%s", d)
	}
	c.expect(late, api.EndpointsSynced, api.Endpoint{})
}

func streamFollows(c *capacity) {
	one, two := c.synced("g1"), c.synced("g2")
	a := c.Ready("a")
	c.expect(one, api.EndpointReady, a)
	c.Lose("a")
	c.expect(one, api.EndpointGone, a)
	b := c.Ready("b")
	c.expect(one, api.EndpointReady, b)
	c.expect(two, api.EndpointReady, a)
	c.expect(two, api.EndpointGone, a)
	c.expect(two, api.EndpointReady, b)
}

func streamEnds(c *capacity) {
	stopped := c.synced("g1")
	stopped.Stop()
	stopped.Stop()
	c.expectEnd(stopped)
	if err := stopped.Err(); err != nil {
		c.Errorf("a stopped stream ended with %v", err)
	}
	ctx, cancel := context.WithCancel(c.ctx())
	s, err := c.Capacity.Endpoints(ctx, "g2")
	if err != nil {
		c.Fatalf("endpoints: %v", err)
	}
	c.expect(s, api.EndpointsSynced, api.Endpoint{})
	cancel()
	c.expectEnd(s)
	s.Stop()
	again := c.synced("g2")
	c.expect(again, api.EndpointReady, c.Ready("a"))
}

func streamFails(c *capacity) {
	s := c.synced("g1")
	c.Fail("no luck")
	e := c.next(s)
	if e.Type != api.EndpointsFailing || e.Function != c.Function || e.Reason == "" {
		c.Fatalf("got %+v, want FAILED with its reason", e)
	}
}

func demandWakes(c *capacity) {
	if n := c.Wanted(); n != 0 {
		c.Fatalf("%d replicas are wanted at the beginning, want 0", n)
	}
	c.report("g1", api.Demand{Function: c.Function})
	c.report("g1", api.Demand{Function: c.Function, Queued: 1, Arrived: 1})
	c.until("a replica is wanted", func() bool { return c.Wanted() > 0 })
}

func unknownFunction(c *capacity) {
	none := types.NamespacedName{Namespace: c.Function.Namespace, Name: "no-such-function"}
	c.report("g1", api.Demand{Function: none, Queued: 1, Arrived: 1})
	c.drained("g1", "no-such-pod")
	s := c.synced("g1")
	c.expect(s, api.EndpointReady, c.Ready("a"))
}

func (c *capacity) decisions(f types.NamespacedName) []api.ScaleDecision {
	c.Helper()
	ds, err := c.Capacity.Decisions(c.ctx(), f)
	if err != nil {
		c.Fatalf("decisions: %v", err)
	}
	return ds
}

// What was decided can be asked for, with its inputs, oldest first.
func decisionsAreTold(c *capacity) {
	up := func() (api.ScaleDecision, bool) {
		for _, d := range c.decisions(c.Function) {
			if d.To > d.From {
				return d, true
			}
		}
		return api.ScaleDecision{}, false
	}
	if d, ok := up(); ok {
		c.Fatalf("decided before anything was asked for: %+v", d)
	}
	if ds := c.decisions(types.NamespacedName{Namespace: c.Function.Namespace, Name: "no/such function"}); len(ds) > 0 {
		c.Fatalf("decisions on a function that is not there: %+v", ds)
	}
	c.report("g1", api.Demand{Function: c.Function})
	c.report("g1", api.Demand{Function: c.Function, Queued: 3, Arrived: 3})
	c.until("a decision is told", func() bool { _, ok := up(); return ok })
	if d, _ := up(); d.From != 0 || d.To < 1 || d.Inputs.Queued != 3 || d.Rule == "" || d.Reason == "" || d.Time.IsZero() {
		c.Errorf("the decision is %+v, want one from 0 with 3 queued, its rule and its reason", d)
	}
	ds := c.decisions(c.Function)
	for i := 1; i < len(ds); i++ {
		if ds[i].Time.Before(ds[i-1].Time) {
			c.Errorf("decision %d is of %s, the one before of %s", i, ds[i].Time, ds[i-1].Time)
		}
	}
}

func drainsWhenAllHaveAnswered(c *capacity) {
	one, two := c.synced("g1"), c.synced("g2")
	a, b := c.Ready("a"), c.Ready("b")
	for _, s := range []api.EndpointStream{one, two} {
		c.expect(s, api.EndpointReady, a)
		c.expect(s, api.EndpointReady, b)
	}
	c.Delete("a")
	c.expect(one, api.EndpointDrain, a)
	c.expect(two, api.EndpointDrain, a)
	c.drained("g1", a.Pod)
	c.drained("g1", a.Pod) // twice is as once
	c.drained("g2", b.Pod) // of another one
	c.Lose("b")
	c.expect(one, api.EndpointGone, b)
	// Nothing may happen to a now. That others come and go meanwhile gives an
	// implementation that does it later the time to show.
	for range 50 {
		o := c.Ready("other")
		c.expect(one, api.EndpointReady, o)
		c.Lose("other")
		c.expect(one, api.EndpointGone, o)
		if c.Drained("a") {
			c.Fatal("drained though g2 has not answered")
		}
	}
	c.drained("g2", a.Pod)
	c.until("a is drained", func() bool { return c.Drained("a") })
}

func drainsWithoutGateways(c *capacity) {
	s := c.synced("g1")
	c.expect(s, api.EndpointReady, c.Ready("a"))
	s.Stop()
	c.expectEnd(s)
	c.Delete("a")
	c.until("a is drained", func() bool { return c.Drained("a") })
}

func drainForgetsGatewaysThatLeft(c *capacity) {
	one, two := c.synced("g1"), c.synced("g2")
	a := c.Ready("a")
	c.expect(one, api.EndpointReady, a)
	c.expect(two, api.EndpointReady, a)
	c.Delete("a")
	c.expect(one, api.EndpointDrain, a)
	c.drained("g1", a.Pod)
	two.Stop()
	c.until("a is drained", func() bool { return c.Drained("a") })
}

// A gateway that comes back has to be told that a replica drains, and must not
// take it for a ready one.
func drainIsToldAgain(c *capacity) {
	one, two := c.synced("g1"), c.synced("g2")
	a := c.Ready("a")
	c.expect(one, api.EndpointReady, a)
	c.expect(two, api.EndpointReady, a)
	c.Delete("a")
	c.expect(one, api.EndpointDrain, a)
	again := c.open("g3")
	c.expect(again, api.EndpointDrain, a)
	c.expect(again, api.EndpointsSynced, api.Endpoint{})
	c.drained("g1", a.Pod)
	c.drained("g2", a.Pod)
	c.drained("g3", a.Pod)
	c.until("a is drained", func() bool { return c.Drained("a") })
}
