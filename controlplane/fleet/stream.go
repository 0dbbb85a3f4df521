package fleet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// buffer is how many events a gateway may be behind.
const buffer = 8192

var errSlow = errors.New("the gateway was too slow to read its endpoints: ask again")

// stream is one gateway's stream of endpoints.
type stream struct {
	f       *Fleet
	gateway string
	events  chan api.EndpointEvent
	closed  bool // guarded by the fleet's lock, like err
	err     error
	stopped sync.Once
	release func() bool
}

// Events implements api.EndpointStream.
func (s *stream) Events() <-chan api.EndpointEvent { return s.events }

// Err implements api.EndpointStream.
func (s *stream) Err() error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	return s.err
}

// Stop implements api.EndpointStream.
func (s *stream) Stop() {
	s.stopped.Do(func() {
		s.release()
		s.f.mu.Lock()
		s.f.cut(s, nil)
		s.f.mu.Unlock()
		s.f.lookAtDrains()
	})
}

// Endpoints implements api.Capacity.
func (f *Fleet) Endpoints(ctx context.Context, gateway string) (api.EndpointStream, error) {
	for _, synced := range []<-chan struct{}{f.pods.Synced(), f.deployments.Synced()} {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-synced:
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 1
	for _, fn := range f.functions {
		n += len(fn.endpoints) + 1
	}
	s := &stream{f: f, gateway: gateway, events: make(chan api.EndpointEvent, n+buffer)}
	for k, fn := range f.functions {
		for _, st := range fn.endpoints {
			t := api.EndpointReady
			if st.draining {
				t = api.EndpointDrain // alone: as a ready one it would get new requests
			}
			s.events <- api.EndpointEvent{Type: t, Function: k, Endpoint: st.endpoint}
		}
		if fn.failing != "" {
			s.events <- api.EndpointEvent{Type: api.EndpointsFailing, Function: k, Reason: fn.failing}
		}
	}
	s.events <- api.EndpointEvent{Type: api.EndpointsSynced}
	f.streams[s] = true
	delete(f.away, gateway)
	s.release = context.AfterFunc(ctx, s.Stop)
	return s, nil
}

// tell sends an event to all gateways; f.mu is held.
func (f *Fleet) tell(e api.EndpointEvent) {
	for s := range f.streams {
		select {
		case s.events <- e:
		default:
			f.cut(s, errSlow)
		}
	}
}

// cut ends a stream; f.mu is held.
func (f *Fleet) cut(s *stream, err error) {
	if s.closed {
		return
	}
	s.closed, s.err = true, err
	close(s.events)
	delete(f.streams, s)
	f.away[s.gateway] = time.Now()
	for other := range f.streams {
		if other.gateway == s.gateway {
			delete(f.away, s.gateway)
		}
	}
}

func (f *Fleet) cutAll(err error) {
	f.mu.Lock()
	all := slices.Collect(maps.Keys(f.streams))
	for _, s := range all {
		f.cut(s, err)
	}
	f.mu.Unlock()
	for _, s := range all {
		s.release()
	}
}

// Drained implements api.Capacity. It keeps nothing of pods that no gateway was
// told to drain.
func (f *Fleet) Drained(_ context.Context, gateway string, pods []types.UID) error {
	f.mu.Lock()
	for _, uid := range pods {
		if !f.draining(uid) {
			continue
		}
		if f.drained[uid] == nil {
			f.drained[uid] = map[string]bool{}
		}
		f.drained[uid][gateway] = true
	}
	f.mu.Unlock()
	f.lookAtDrains()
	return nil
}

// draining reports whether gateways were told to drain the pod; f.mu is held.
func (f *Fleet) draining(uid types.UID) bool {
	for _, fn := range f.functions {
		if s, ok := fn.endpoints[uid]; ok {
			return s.draining
		}
	}
	return false
}

// lookAtDrains has every deleted pod looked at that is not drained yet.
func (f *Fleet) lookAtDrains() {
	for _, p := range f.pods.List() {
		if p.DeletionTimestamp != nil && p.Annotations[api.AnnotationDrained] == "" {
			f.drains.Add(podKey{types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, p.UID})
		}
	}
}

// reconcileDrain marks a deleted pod as drained when every connected gateway
// has said so, but not before those that are away after a start had the time
// to come back.
func (f *Fleet) reconcileDrain(ctx context.Context, k podKey) (_ time.Duration, err error) {
	p, ok := f.pods.Get(k.Namespace, k.Name)
	if !ok || p.UID != k.UID || p.DeletionTimestamp == nil || p.Annotations[api.AnnotationDrained] != "" {
		return 0, nil
	}
	f.mu.Lock()
	_, served := f.functions[functionOf(p)].served(p.UID)
	if served {
		if left := f.c.Comeback - time.Since(f.started); left > 0 {
			f.mu.Unlock()
			return left, nil
		}
		for s := range f.streams {
			if !f.drained[p.UID][s.gateway] {
				f.mu.Unlock()
				return 0, nil // its answer brings us back
			}
		}
	}
	f.mu.Unlock()
	_, err = api.Mutate(ctx, f.c.Objects, api.Pods, k.Namespace, k.Name, api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
		if p.UID != k.UID || p.DeletionTimestamp == nil || p.Annotations[api.AnnotationDrained] != "" {
			return false, nil
		}
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations[api.AnnotationDrained] = "true"
		return true, nil
	})
	return 0, ignoreNotFound(err)
}

// served reports whether gateways may send to the pod. A nil function has none.
func (fn *function) served(uid types.UID) (state, bool) {
	if fn == nil {
		return state{}, false
	}
	s, ok := fn.endpoints[uid]
	return s, ok
}
