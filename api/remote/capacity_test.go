package remote_test

import (
	"context"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/api/seamtest"
)

// fakeCapacity streams what a test gives it.
type fakeCapacity struct {
	demand    map[string][]api.Demand
	drained   map[string][]types.UID
	leaves    map[string][]api.Leave
	decisions map[types.NamespacedName][]api.ScaleDecision
	events    chan api.EndpointEvent
	end       error
	err       error
}

type fakeStream struct {
	events chan api.EndpointEvent
	err    error
	once   sync.Once
	stop   chan struct{}
	done   chan struct{}
}

func (s *fakeStream) Events() <-chan api.EndpointEvent { return s.events }
func (s *fakeStream) Err() error                       { <-s.done; return s.err }
func (s *fakeStream) Stop()                            { s.once.Do(func() { close(s.stop) }); <-s.done }

func (f *fakeCapacity) Report(_ context.Context, gateway string, d []api.Demand) error {
	f.demand[gateway] = d
	return f.err
}

func (f *fakeCapacity) Drained(_ context.Context, gateway string, pods []types.UID) error {
	f.drained[gateway] = pods
	return f.err
}

func (f *fakeCapacity) GiveLeave(_ context.Context, gateway string, leaves []api.Leave) error {
	f.leaves = map[string][]api.Leave{gateway: leaves}
	return f.err
}

func (f *fakeCapacity) Decisions(_ context.Context, k types.NamespacedName) ([]api.ScaleDecision, error) {
	return f.decisions[k], f.err
}

func (f *fakeCapacity) Endpoints(ctx context.Context, _ string) (api.EndpointStream, error) {
	if f.err != nil {
		return nil, f.err
	}
	s := &fakeStream{events: make(chan api.EndpointEvent), stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer close(s.events)
		for {
			select {
			case ev, ok := <-f.events:
				if !ok {
					s.err = f.end
					return
				}
				s.events <- ev
			case <-s.stop:
				return
			case <-ctx.Done():
				s.err = ctx.Err()
				return
			}
		}
	}()
	return s, nil
}

func capacityPair(t *testing.T, f *fakeCapacity) *remote.Capacity {
	t.Helper()
	srv := httptest.NewServer(remote.ServeCapacity(f))
	t.Cleanup(srv.Close)
	return remote.NewCapacity(remote.Config{URL: srv.URL, Client: srv.Client()})
}

func TestCapacityCalls(t *testing.T) {
	f := &fakeCapacity{demand: map[string][]api.Demand{}, drained: map[string][]types.UID{}}
	c := capacityPair(t, f)
	demand := []api.Demand{{Function: types.NamespacedName{Namespace: "n", Name: "f"}, Queued: 1, InFlight: 2, Arrived: 1 << 63, Pending: 4}}
	if err := c.Report(t.Context(), "gw/1", demand); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string][]api.Demand{"gw/1": demand}, f.demand); d != "" {
		t.Error(d)
	}
	if err := c.Drained(t.Context(), "gw/1", []types.UID{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string][]types.UID{"gw/1": {"a", "b"}}, f.drained); d != "" {
		t.Error(d)
	}
	leaves := []api.Leave{{Pod: "a", Round: 1 << 63}}
	if err := c.GiveLeave(t.Context(), "gw/1", leaves); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string][]api.Leave{"gw/1": leaves}, f.leaves); d != "" {
		t.Error(d)
	}
	k := types.NamespacedName{Namespace: "n", Name: "f"}
	f.decisions = map[types.NamespacedName][]api.ScaleDecision{k: {{
		Time: time.Unix(1, 5).UTC(), From: 1, To: 3, Rule: "load", Reason: "because", Repeated: 2, Since: time.Unix(0, 1).UTC(),
		Inputs: api.ScaleInputs{Min: 1, Max: 20, Ready: 1, Queued: 2, InFlight: 1, Pending: 4, Arrived: 3, Rate: 0.1, CPU: 20, CPUReplicas: 1, IdleSeconds: 0.5, Settling: true},
		Wishes: []api.ScaleWish{{Measure: "capacity", Load: 3, Target: 1, Replicas: 3, Held: "so"}},
		Idle:   api.IdlePlan{Tier: "running", KeepAliveSeconds: 900, From: "default", PrewarmSeconds: 1, PrewarmUntilSeconds: 2},
	}}}
	if ds, err := c.Decisions(t.Context(), k); err != nil || cmp.Diff(f.decisions[k], ds) != "" {
		t.Errorf("%v %s", err, cmp.Diff(f.decisions[k], ds))
	}
	f.err = apierrors.NewServiceUnavailable("no leader")
	if _, err := c.Decisions(t.Context(), k); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("got %v", err)
	}
	if err := c.Report(t.Context(), "gw", nil); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Endpoints(t.Context(), "gw"); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("got %v", err)
	}
}

func TestCapacityEndpoints(t *testing.T) {
	f := &fakeCapacity{events: make(chan api.EndpointEvent), end: apierrors.NewServiceUnavailable("lost the lead")}
	c := capacityPair(t, f)
	s, err := c.Endpoints(t.Context(), "gw")
	if err != nil {
		t.Fatal(err)
	}
	fn := types.NamespacedName{Namespace: "n", Name: "f"}
	for _, want := range []api.EndpointEvent{
		{Type: api.EndpointReady, Function: fn, Endpoint: api.Endpoint{Pod: "u", Name: "p", Address: "10.0.0.1:8080", Concurrency: 3, Timeout: 90 * time.Second}},
		{Type: api.EndpointsSynced},
		{Type: api.EndpointDrain, Function: fn, Endpoint: api.Endpoint{Pod: "u"}},
		{Type: api.EndpointsFailing, Function: fn, Reason: "CrashLoopBackOff"},
	} {
		f.events <- want
		if d := cmp.Diff(want, <-s.Events()); d != "" {
			t.Fatal(d)
		}
	}
	close(f.events)
	if ev, ok := <-s.Events(); ok {
		t.Errorf("after the end came %v", ev)
	}
	if err := s.Err(); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("got %v, want the stream's own error", err)
	}
}

func TestCapacityEndpointsStop(t *testing.T) {
	f := &fakeCapacity{events: make(chan api.EndpointEvent)}
	c := capacityPair(t, f)
	s, err := c.Endpoints(t.Context(), "gw")
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s.Stop()
	if _, ok := <-s.Events(); ok || s.Err() != nil {
		t.Errorf("after Stop: %v", s.Err())
	}
	ctx, cancel := context.WithCancel(t.Context())
	if s, err = c.Endpoints(ctx, "gw"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, ok := <-s.Events(); ok || s.Err() == nil {
		t.Errorf("after its context: %v, want an error", s.Err())
	}
}

func TestCapacityConforms(t *testing.T) {
	seamtest.Capacity(t, func(t *testing.T) seamtest.CapacityRig {
		c := memory.NewCapacity()
		srv := httptest.NewServer(remote.ServeCapacity(c))
		t.Cleanup(srv.Close)
		f := types.NamespacedName{Namespace: "seam", Name: "resize"}
		return seamtest.CapacityRig{
			Capacity: remote.NewCapacity(remote.Config{URL: srv.URL, Client: srv.Client()}), Function: f,
			Ready: func(pod string) api.Endpoint {
				e := api.Endpoint{Pod: types.UID("uid-" + pod), Name: pod, Address: "127.0.0.1:8080", Concurrency: 2, Timeout: time.Second}
				c.Ready(f, e)
				return e
			},
			Delete:  func(pod string) { c.Delete(types.UID("uid-" + pod)) },
			Lose:    func(pod string) { c.Lose(types.UID("uid-" + pod)) },
			Fail:    func(reason string) { c.Fail(f, reason) },
			Wanted:  func() int { return c.Wanted(f) },
			Drained: func(pod string) bool { return !c.Has(types.UID("uid-" + pod)) },
		}
	})
}
