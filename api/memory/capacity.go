package memory

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/types"
)

// Capacity is an api.Capacity in memory. Its replicas are what Ready, Delete,
// Lose and Fail say; of the demand it keeps the last report of each gateway and
// wants one replica of every function that something waits for. It starts no
// goroutines.
type Capacity struct {
	mu        sync.Mutex
	endpoints map[types.UID]*replica
	order     []types.UID // in which replicas became ready
	failing   map[types.NamespacedName]string
	demand    map[types.NamespacedName]map[string]api.Demand // by gateway
	wanted    map[types.NamespacedName]int
	decisions map[types.NamespacedName][]api.ScaleDecision
	streams   map[*endpointStream]bool
}

type replica struct {
	function types.NamespacedName
	endpoint api.Endpoint
	draining bool
	answered map[string]bool // gateways
	leaves   []string        // the same, of Endpoint.Frozen
}

var _ api.Capacity = (*Capacity)(nil)

// NewCapacity makes one without replicas and demand.
func NewCapacity() *Capacity {
	return &Capacity{
		endpoints: map[types.UID]*replica{}, failing: map[types.NamespacedName]string{},
		demand: map[types.NamespacedName]map[string]api.Demand{}, wanted: map[types.NamespacedName]int{},
		decisions: map[types.NamespacedName][]api.ScaleDecision{}, streams: map[*endpointStream]bool{},
	}
}

// Ready adds a replica of f.
func (c *Capacity) Ready(f types.NamespacedName, e api.Endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failing, f)
	c.endpoints[e.Pod] = &replica{function: f, endpoint: e, answered: map[string]bool{}}
	c.order = append(c.order, e.Pod)
	c.tell(api.EndpointEvent{Type: api.EndpointReady, Function: f, Endpoint: e})
}

// Delete has the gateways drain a replica.
func (c *Capacity) Delete(pod types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.endpoints[pod]; r != nil && !r.draining {
		r.draining = true
		c.tell(api.EndpointEvent{Type: api.EndpointDrain, Function: r.function, Endpoint: r.endpoint})
		c.settle()
	}
}

// Lose takes a replica away.
func (c *Capacity) Lose(pod types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose(pod)
}

func (c *Capacity) lose(pod types.UID) {
	r := c.endpoints[pod]
	if r == nil {
		return
	}
	delete(c.endpoints, pod)
	c.tell(api.EndpointEvent{Type: api.EndpointGone, Function: r.function, Endpoint: r.endpoint})
}

// Fail says that f can have no replica.
func (c *Capacity) Fail(f types.NamespacedName, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failing[f] = reason
	c.tell(api.EndpointEvent{Type: api.EndpointsFailing, Function: f, Reason: reason})
}

// Has reports whether the replica is there, draining or not: it goes as soon
// as every connected gateway has drained it.
func (c *Capacity) Has(pod types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endpoints[pod] != nil
}

// Wanted is the number of replicas that the demand asks for: 1 after something
// has waited.
func (c *Capacity) Wanted(f types.NamespacedName) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wanted[f]
}

// Demand is what the gateway has reported last.
func (c *Capacity) Demand(f types.NamespacedName, gateway string) api.Demand {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.demand[f][gateway]
}

// Report implements api.Capacity.
func (c *Capacity) Report(_ context.Context, gateway string, demand []api.Demand) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range demand {
		if c.demand[d.Function] == nil {
			c.demand[d.Function] = map[string]api.Demand{}
		}
		c.demand[d.Function][gateway] = d
		if d.Queued > 0 && c.wanted[d.Function] == 0 {
			c.wanted[d.Function] = 1
			c.decisions[d.Function] = append(c.decisions[d.Function], api.ScaleDecision{
				Time: time.Now(), To: 1, Rule: "wake", Reason: "something waits",
				Inputs: api.ScaleInputs{Queued: d.Queued, InFlight: d.InFlight},
			})
		}
	}
	return nil
}

// Decisions implements api.Capacity.
func (c *Capacity) Decisions(_ context.Context, f types.NamespacedName) ([]api.ScaleDecision, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.decisions[f]), nil
}

// Drained implements api.Capacity.
func (c *Capacity) Drained(_ context.Context, gateway string, pods []types.UID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pod := range pods {
		if r := c.endpoints[pod]; r != nil && r.draining {
			r.answered[gateway] = true
		}
	}
	c.settle()
	return nil
}

// Freeze has the gateways take a replica for frozen.
func (c *Capacity) Freeze(pod types.UID, round uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.endpoints[pod]; r != nil && !r.draining {
		r.endpoint.Frozen = round
		c.tell(api.EndpointEvent{Type: api.EndpointReady, Function: r.function, Endpoint: r.endpoint})
	}
}

// GiveLeave implements api.Capacity; it is kept for Leaves.
func (c *Capacity) GiveLeave(_ context.Context, gateway string, leaves []api.Leave) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range leaves {
		if r := c.endpoints[l.Pod]; r != nil && r.endpoint.Frozen == l.Round {
			r.leaves = append(r.leaves, gateway)
		}
	}
	return nil
}

// Leaves are the gateways that have given leave to freeze a replica.
func (c *Capacity) Leaves(pod types.UID) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.endpoints[pod]; r != nil {
		return slices.Clone(r.leaves)
	}
	return nil
}

// settle ends the replicas that no gateway has anything on; c.mu is held.
func (c *Capacity) settle() {
	for pod, r := range c.endpoints {
		if r.draining && c.released(r) {
			c.lose(pod)
		}
	}
}

func (c *Capacity) released(r *replica) bool {
	for s := range c.streams {
		if !r.answered[s.gateway] {
			return false
		}
	}
	return true
}

// backlog is how many events a gateway may be behind.
const backlog = 4096

// Endpoints implements api.Capacity.
func (c *Capacity) Endpoints(ctx context.Context, gateway string) (api.EndpointStream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &endpointStream{c: c, gateway: gateway, events: make(chan api.EndpointEvent, len(c.endpoints)+len(c.failing)+1+backlog)}
	keep := c.order[:0]
	for _, pod := range c.order {
		r := c.endpoints[pod]
		if r == nil {
			continue
		}
		keep = append(keep, pod)
		t := api.EndpointReady
		if r.draining {
			t = api.EndpointDrain
		}
		s.events <- api.EndpointEvent{Type: t, Function: r.function, Endpoint: r.endpoint}
	}
	c.order = keep
	for f, reason := range c.failing {
		s.events <- api.EndpointEvent{Type: api.EndpointsFailing, Function: f, Reason: reason}
	}
	s.events <- api.EndpointEvent{Type: api.EndpointsSynced}
	c.streams[s] = true
	s.release = context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })
	return s, nil
}

// tell sends an event to all gateways; c.mu is held.
func (c *Capacity) tell(e api.EndpointEvent) {
	for s := range c.streams {
		select {
		case s.events <- e:
		default:
			c.cut(s, errors.New("the gateway was too slow to read its endpoints: ask again"))
		}
	}
}

func (c *Capacity) cut(s *endpointStream, err error) {
	if !c.streams[s] {
		return
	}
	delete(c.streams, s)
	s.err = err
	close(s.events)
}

type endpointStream struct {
	c       *Capacity
	gateway string
	events  chan api.EndpointEvent
	err     error // guarded by c.mu
	release func() bool
}

// Events implements api.EndpointStream.
func (s *endpointStream) Events() <-chan api.EndpointEvent { return s.events }

// Err implements api.EndpointStream.
func (s *endpointStream) Err() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.err
}

// Stop implements api.EndpointStream.
func (s *endpointStream) Stop() {
	s.release()
	s.end(nil)
}

func (s *endpointStream) end(err error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.cut(s, err)
	s.c.settle()
}
