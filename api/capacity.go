package api

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Capacity is the second seam: gateways say what functions are asked for, the
// control plane answers with endpoints. All methods are safe for concurrent
// use.
type Capacity interface {
	// Report states the demand for functions as one gateway sees it now. It
	// returns when the demand is taken into account, not when replicas exist:
	// those come through Endpoints. Gateways report at once when a request has
	// to wait, and otherwise at least every second while a function has
	// traffic, and once more with zeros when it has ended. A report that is
	// older than 3 s counts as zero.
	Report(ctx context.Context, gateway string, demand []Demand) error

	// Endpoints streams the endpoints of all functions to one gateway: first
	// a Ready for each existing one, then one EndpointsSynced, then changes in
	// order. The stream ends with its context or by a fault; then the gateway
	// keeps what it has and asks again.
	Endpoints(ctx context.Context, gateway string) (EndpointStream, error)

	// Drained says that the gateway has no request in flight any more on pods
	// that it was told to drain, and will send none.
	Drained(ctx context.Context, gateway string, pods []types.UID) error

	// GiveLeave says that the gateway has nothing in flight on pods that it was
	// told to take for frozen, and will send nothing to them unless it has ended
	// the round at their node's agent: see Agent.SetFrozen. Leave for another
	// round than the pod's counts for nothing.
	GiveLeave(ctx context.Context, gateway string, leaves []Leave) error

	// Decisions answers with the last decisions on a function's number of
	// replicas, oldest first: those that changed it, and the last ones that did
	// not. Of a function that is not known, or on which nothing was decided
	// yet, there are none, which is no error.
	Decisions(ctx context.Context, function types.NamespacedName) ([]ScaleDecision, error)
}

// Leave is a gateway's, to freeze a pod in a round.
type Leave struct {
	Pod   types.UID `json:"pod"`
	Round uint64    `json:"round"`
}

// Demand is what a gateway knows about one function at one moment.
type Demand struct {
	Function types.NamespacedName `json:"function"`
	Queued   int                  `json:"queued"`   // waiting for a replica
	InFlight int                  `json:"inFlight"` // being served
	Arrived  uint64               `json:"arrived"`  // requests since the gateway started, monotonic
	Pending  int                  `json:"pending"`  // asynchronous calls waiting in the queue
}

// EndpointEventType is what happened to an endpoint.
type EndpointEventType string

// What may happen to an endpoint.
const (
	EndpointReady    EndpointEventType = "READY"  // send to it
	EndpointDrain    EndpointEventType = "DRAIN"  // send nothing new; answer with Drained when nothing is in flight
	EndpointGone     EndpointEventType = "GONE"   // not there any more
	EndpointsSynced  EndpointEventType = "SYNCED" // the initial state is complete
	EndpointsFailing EndpointEventType = "FAILED" // no replica can be had for Function: Reason says why (crash loop, image, quota)
)

// EndpointEvent is one change.
type EndpointEvent struct {
	Type     EndpointEventType    `json:"type"`
	Function types.NamespacedName `json:"function"`
	Endpoint Endpoint             `json:"endpoint"`
	Reason   string               `json:"reason,omitempty"`
}

// Endpoint is one replica that answers.
type Endpoint struct {
	Pod         types.UID     `json:"pod"`
	Name        string        `json:"name"`                  // the pod's
	Node        string        `json:"node,omitempty"`        // that it runs on
	Address     string        `json:"address"`               // host:port
	Concurrency int           `json:"concurrency,omitempty"` // at most so many requests at once; 0 is no limit
	Timeout     time.Duration `json:"timeout,omitempty"`     // of an invocation; 0 is the gateway's own
	Start       Start         `json:"start,omitzero"`        // how it came to be
	// Frozen is the last round in which the pod was to be frozen, 0 if there was
	// none. A gateway that has not ended this round takes the pod for frozen.
	Frozen uint64 `json:"frozen,omitempty"`
}

// Start is when a replica's start got how far, by the control plane's clock. A
// time is zero when it is not known.
type Start struct {
	Created time.Time `json:"created,omitzero"` // there is a pod
	Placed  time.Time `json:"placed,omitzero"`  // it has a node
	Ready   time.Time `json:"ready,omitzero"`   // it takes calls
}

// EndpointStream is a running stream of endpoints.
type EndpointStream interface {
	// Events is closed when the stream ends.
	Events() <-chan EndpointEvent
	// Err says why, after Events was closed.
	Err() error
	// Stop ends the stream; it may be called more than once.
	Stop()
}
