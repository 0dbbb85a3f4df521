// Package relay implements the seams for what outlives terms of leadership: each
// call goes to the seams of whoever leads now, the objects themselves in the same
// process or remote ones.
package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// Seams are those of a leader.
type Seams struct {
	Objects  api.Objects
	Capacity api.Capacity
	Tokens   api.Tokens
}

// Hold is how long a call waits for a leader when there is none.
const Hold = 5 * time.Second

// Relay is the seams of whoever leads.
type Relay struct {
	mu    sync.Mutex
	seams *Seams             // nil: nobody leads
	ctx   context.Context    //nolint:containedctx // of the streams from seams
	cut   context.CancelFunc // ends them
	there chan struct{}      // closed when seams are there
}

// New makes one that waits for its first leader.
func New() *Relay {
	return &Relay{there: make(chan struct{})}
}

var errMoved = errors.New("leadership has moved")

// Set says who leads, nil for nobody. Streams from the one before end.
func (r *Relay) Set(s *Seams) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut != nil {
		r.cut()
	}
	had := r.seams != nil
	r.seams, r.ctx, r.cut = s, nil, nil
	if s == nil {
		if had {
			r.there = make(chan struct{})
		}
		return
	}
	ctx, cancel := context.WithCancelCause(context.Background()) //nolint:forbidigo // streams end with the leader, or by their own contexts
	r.ctx, r.cut = ctx, func() { cancel(errMoved) }
	if !had {
		close(r.there)
	}
}

// get answers with the seams, and the context of streams from them.
func (r *Relay) get(ctx context.Context) (*Seams, context.Context, error) {
	var over <-chan time.Time
	for {
		r.mu.Lock()
		s, streams, there := r.seams, r.ctx, r.there
		r.mu.Unlock()
		if s != nil {
			return s, streams, nil
		}
		if over == nil {
			t := time.NewTimer(Hold)
			defer t.Stop()
			over = t.C
		}
		select {
		case <-there:
		case <-over:
			return nil, nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no server leads for %v now; please try again", Hold))
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// Wait returns when somebody leads, or with an error after Hold.
func (r *Relay) Wait(ctx context.Context) error {
	_, _, err := r.get(ctx)
	return err
}

// Objects is the relay as the first seam.
func (r *Relay) Objects() api.Objects { return objects{r} }

// Capacity is the relay as the second seam.
func (r *Relay) Capacity() api.Capacity { return capacity{r} }

// bound is ctx that ends with streams too. stop lets go of it.
func bound(ctx, streams context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	undo := context.AfterFunc(streams, func() { cancel(context.Cause(streams)) })
	return ctx, func() { undo(); cancel(nil) }
}

type objects struct{ r *Relay }

func (o objects) Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	s, _, err := o.r.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Objects.Get(ctx, r, namespace, name)
}

func (o objects) List(ctx context.Context, r *api.Resource, l api.ListOptions) (api.List, error) {
	s, _, err := o.r.get(ctx)
	if err != nil {
		return api.List{}, err
	}
	return s.Objects.List(ctx, r, l)
}

func (o objects) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	s, _, err := o.r.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Objects.Create(ctx, obj)
}

func (o objects) Update(ctx context.Context, obj api.Object, u api.UpdateOptions) (api.Object, error) {
	s, _, err := o.r.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Objects.Update(ctx, obj, u)
}

func (o objects) Patch(ctx context.Context, r *api.Resource, namespace, name string, p api.Patch) (api.Object, error) {
	s, _, err := o.r.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Objects.Patch(ctx, r, namespace, name, p)
}

func (o objects) Delete(ctx context.Context, r *api.Resource, namespace, name string, d api.DeleteOptions) (api.Object, error) {
	s, _, err := o.r.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Objects.Delete(ctx, r, namespace, name, d)
}

func (o objects) Watch(ctx context.Context, r *api.Resource, w api.WatchOptions) (api.Watch, error) {
	s, streams, err := o.r.get(ctx)
	if err != nil {
		return nil, err
	}
	ctx, stop := bound(ctx, streams)
	out, err := s.Objects.Watch(ctx, r, w)
	if err != nil {
		stop()
		return nil, err
	}
	return &watch{out, stop}, nil
}

// watch lets go of its context when it is stopped.
type watch struct {
	api.Watch
	stop func()
}

func (w *watch) Stop() {
	w.Watch.Stop()
	w.stop()
}

// Tokens is the relay as what hands out tokens of service accounts.
func (r *Relay) Tokens() api.Tokens { return tokens{r} }

type tokens struct{ r *Relay }

func (t tokens) Issue(ctx context.Context, namespace, account string, q *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	s, _, err := t.r.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Tokens.Issue(ctx, namespace, account, q)
}

type capacity struct{ r *Relay }

func (c capacity) Report(ctx context.Context, gateway string, demand []api.Demand) error {
	s, _, err := c.r.get(ctx)
	if err != nil {
		return err
	}
	return s.Capacity.Report(ctx, gateway, demand)
}

func (c capacity) Endpoints(ctx context.Context, gateway string) (api.EndpointStream, error) {
	s, streams, err := c.r.get(ctx)
	if err != nil {
		return nil, err
	}
	ctx, stop := bound(ctx, streams)
	out, err := s.Capacity.Endpoints(ctx, gateway)
	if err != nil {
		stop()
		return nil, err
	}
	return &stream{out, stop}, nil
}

type stream struct {
	api.EndpointStream
	stop func()
}

func (s *stream) Stop() {
	s.EndpointStream.Stop()
	s.stop()
}

func (c capacity) Drained(ctx context.Context, gateway string, pods []types.UID) error {
	s, _, err := c.r.get(ctx)
	if err != nil {
		return err
	}
	return s.Capacity.Drained(ctx, gateway, pods)
}

func (c capacity) GiveLeave(ctx context.Context, gateway string, leaves []api.Leave) error {
	s, _, err := c.r.get(ctx)
	if err != nil {
		return err
	}
	return s.Capacity.GiveLeave(ctx, gateway, leaves)
}

func (c capacity) Decisions(ctx context.Context, function types.NamespacedName) ([]api.ScaleDecision, error) {
	s, _, err := c.r.get(ctx)
	if err != nil {
		return nil, err
	}
	return s.Capacity.Decisions(ctx, function)
}
