package nodeagent

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
)

// backlog is how many changes an observer may be behind before it is cut off.
const backlog = 4096

// hub hands the states of pods on to observers. The zero value is ready.
type hub struct {
	mu     sync.Mutex
	states map[types.UID]api.PodState
	subs   map[chan api.PodState]bool
	closed bool
}

func (h *hub) publish(s api.PodState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.states == nil {
		h.states = map[types.UID]api.PodState{}
	}
	if s.Gone {
		delete(h.states, s.UID)
	} else {
		h.states[s.UID] = s
	}
	for ch := range h.subs {
		select {
		case ch <- s:
		default: // too slow
			delete(h.subs, ch)
			close(ch)
		}
	}
}

// observe answers with a channel that is closed with ctx.
func (h *hub) observe(ctx context.Context) <-chan api.PodState {
	h.mu.Lock()
	defer h.mu.Unlock()
	ch := make(chan api.PodState, len(h.states)+backlog)
	if h.closed || ctx.Err() != nil {
		close(ch)
		return ch
	}
	for _, s := range h.states {
		ch <- s
	}
	if h.subs == nil {
		h.subs = map[chan api.PodState]bool{}
	}
	h.subs[ch] = true
	context.AfterFunc(ctx, func() { h.drop(ch) })
	return ch
}

func (h *hub) drop(ch chan api.PodState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs[ch] {
		delete(h.subs, ch)
		close(ch)
	}
}

// close ends all observers.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for ch := range h.subs {
		delete(h.subs, ch)
		close(ch)
	}
}
