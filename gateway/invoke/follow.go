package invoke

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/types"
)

// follow takes the endpoints in until ctx is done. When the stream breaks what
// is known stays: warm calls do not need the control plane.
func (v *Invoker) follow(ctx context.Context) {
	wait := retryMin
	for ctx.Err() == nil {
		synced, err := v.followOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if synced {
			wait = retryMin
		}
		v.c.Log.Warn("endpoint stream ended", slog.Any("error", err))
		sleep(ctx, wait)
		wait = min(wait*2, retryMax)
	}
}

const (
	retryMin = 20 * time.Millisecond
	retryMax = 2 * time.Second
)

func (v *Invoker) followOnce(ctx context.Context) (synced bool, err error) {
	s, err := v.c.Capacity.Endpoints(ctx, v.c.Gateway)
	if err != nil {
		return false, err
	}
	defer s.Stop()
	seen := map[types.UID]bool{}
	for e := range s.Events() {
		switch e.Type {
		case api.EndpointsSynced:
			if !synced {
				synced = true
				v.forgetUnseen(seen)
			}
			seen = nil
		default:
			if !synced {
				seen[e.Endpoint.Pod] = true
			}
			v.Endpoint(e)
		}
	}
	if err = s.Err(); err == nil {
		err = errors.New("stopped by the control plane")
	}
	return synced, err
}

// Endpoint takes in one change.
func (v *Invoker) Endpoint(e api.EndpointEvent) {
	v.change.Lock()
	defer v.change.Unlock()
	f, ok := v.table.Get(e.Function)
	switch e.Type {
	case api.EndpointReady:
		v.function(e.Function).ready(e.Endpoint)
	case api.EndpointsFailing:
		if ok {
			f.startFailed(e.Reason)
		}
	case api.EndpointDrain:
		if !ok || f.drain(e.Endpoint.Pod) {
			v.drains.add(e.Endpoint.Pod)
		}
	case api.EndpointGone:
		if ok {
			f.gone(e.Endpoint.Pod)
			v.prune(f)
		}
	case api.EndpointsSynced: // about the stream, not about a function
	}
}

// forgetUnseen drops the replicas that went while the stream was broken.
func (v *Invoker) forgetUnseen(seen map[types.UID]bool) {
	v.change.Lock()
	defer v.change.Unlock()
	for _, f := range v.table.All() {
		for _, pod := range f.pods() {
			if !seen[pod] {
				f.gone(pod)
			}
		}
		v.prune(f)
	}
}

// drainer tells the control plane which pods have nothing in flight any more,
// and which may be frozen, and ends the rounds of those that may not.
type drainer struct {
	v    *Invoker
	kick chan struct{}

	mu     sync.Mutex
	pods   []types.UID
	leaves []api.Leave
	ends   []func(context.Context)
}

func newDrainer(v *Invoker) *drainer { return &drainer{v: v, kick: make(chan struct{}, 1)} }

func (d *drainer) add(pod types.UID) {
	d.mu.Lock()
	d.pods = append(d.pods, pod)
	d.mu.Unlock()
	signal(d.kick)
}

// giveLeave has the control plane told that a pod may be frozen.
func (d *drainer) giveLeave(l api.Leave) {
	d.mu.Lock()
	d.leaves = append(d.leaves, l)
	d.mu.Unlock()
	signal(d.kick)
}

// end has do done, besides everything else: it asks a node's agent.
func (d *drainer) end(do func(context.Context)) {
	d.mu.Lock()
	d.ends = append(d.ends, do)
	d.mu.Unlock()
	signal(d.kick)
}

func (d *drainer) run(ctx context.Context) {
	wait := retryMin
	var ends sync.WaitGroup
	defer ends.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.kick:
		}
		d.mu.Lock()
		pods, leaves, todo := d.pods, d.leaves, d.ends
		d.pods, d.leaves, d.ends = nil, nil, nil
		d.mu.Unlock()
		for _, do := range todo {
			ends.Go(func() { do(ctx) })
		}
		if err := d.tell(ctx, pods, leaves); err != nil && ctx.Err() == nil {
			d.v.c.Log.Warn("tell drained pods", slog.Any("error", err))
			sleep(ctx, wait)
			wait = min(wait*2, retryMax)
			for _, p := range pods {
				d.add(p)
			}
			for _, l := range leaves {
				d.giveLeave(l)
			}
			continue
		}
		wait = retryMin
	}
}

func (d *drainer) tell(ctx context.Context, pods []types.UID, leaves []api.Leave) error {
	var drained, left error
	if len(pods) > 0 {
		drained = d.v.c.Capacity.Drained(ctx, d.v.c.Gateway, pods)
	}
	if len(leaves) > 0 {
		left = d.v.c.Capacity.GiveLeave(ctx, d.v.c.Gateway, leaves)
	}
	return errors.Join(drained, left)
}

// signal fills a channel of one place without waiting.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
