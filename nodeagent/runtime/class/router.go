// Package class has the runtimes of a node be one: each pod goes to the runtime
// of its class.
package class

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// Runtime is what the router needs of each.
type Runtime interface {
	runtime.Runtime
	runtime.Stats
	runtime.Attacher
	runtime.Dialer
}

// Fast is a runtime that knows what is its own.
type Fast interface {
	Runtime
	runtime.Listener
	runtime.Freezer
	Owns(id string) bool
}

// Router implements runtime.Runtime and runtime.Stats over two: what the fast
// one does not own is the other's.
type Router struct {
	fast  Fast
	other Runtime
}

var (
	_ Runtime          = (*Router)(nil)
	_ runtime.Listener = (*Router)(nil)
	_ runtime.Freezer  = (*Router)(nil)
)

// errOther is what only the fast runtime can do.
var errOther = fmt.Errorf("the container's runtime cannot do that: %w", errors.ErrUnsupported)

// New makes a router.
func New(fast Fast, other Runtime) *Router { return &Router{fast, other} }

func (r *Router) of(id string) Runtime {
	if r.fast.Owns(id) {
		return r.fast
	}
	return r.other
}

// StartSandbox implements runtime.Runtime.
func (r *Router) StartSandbox(ctx context.Context, s runtime.SandboxSpec) (runtime.Sandbox, error) {
	if s.Class == runtime.Fast {
		return r.fast.StartSandbox(ctx, s)
	}
	return r.other.StartSandbox(ctx, s)
}

// RemoveSandbox implements runtime.Runtime.
func (r *Router) RemoveSandbox(ctx context.Context, id string) error {
	return r.of(id).RemoveSandbox(ctx, id)
}

// StartContainer implements runtime.Runtime.
func (r *Router) StartContainer(ctx context.Context, c runtime.ContainerSpec) (runtime.Container, error) {
	return r.of(c.Sandbox).StartContainer(ctx, c)
}

// Signal implements runtime.Runtime.
func (r *Router) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	return r.of(id).Signal(ctx, id, sig)
}

// RemoveContainer implements runtime.Runtime.
func (r *Router) RemoveContainer(ctx context.Context, id string) error {
	return r.of(id).RemoveContainer(ctx, id)
}

// Exec implements runtime.Runtime.
func (r *Router) Exec(ctx context.Context, id string, e runtime.Exec) (int, error) {
	return r.of(id).Exec(ctx, id, e)
}

// Attach implements runtime.Attacher.
func (r *Router) Attach(ctx context.Context, id string, a runtime.Attach) error {
	return r.of(id).Attach(ctx, id, a)
}

// DialIn implements runtime.Dialer.
func (r *Router) DialIn(ctx context.Context, sandbox, address string) (net.Conn, error) {
	return r.of(sandbox).DialIn(ctx, sandbox, address)
}

// Stats implements runtime.Stats.
func (r *Router) Stats(ctx context.Context, id string) (cpuSeconds float64, memory uint64, err error) {
	return r.of(id).Stats(ctx, id)
}

// Listening implements runtime.Listener.
func (r *Router) Listening(ctx context.Context, id string, port int32) error {
	if !r.fast.Owns(id) {
		return errOther
	}
	return r.fast.Listening(ctx, id, port)
}

// Freeze implements runtime.Freezer.
func (r *Router) Freeze(ctx context.Context, id string) error {
	if !r.fast.Owns(id) {
		return errOther
	}
	return r.fast.Freeze(ctx, id)
}

// Thaw implements runtime.Freezer.
func (r *Router) Thaw(ctx context.Context, id string) error {
	if !r.fast.Owns(id) {
		return errOther
	}
	return r.fast.Thaw(ctx, id)
}

// Frozen implements runtime.Freezer.
func (r *Router) Frozen(ctx context.Context, id string) (bool, error) {
	if !r.fast.Owns(id) {
		return false, nil
	}
	return r.fast.Frozen(ctx, id)
}

// List implements runtime.Runtime: it is complete or an error.
func (r *Router) List(ctx context.Context) ([]runtime.Sandbox, error) {
	a, err := r.fast.List(ctx)
	if err != nil {
		return nil, err
	}
	b, err := r.other.List(ctx)
	return append(a, b...), err
}

// Events implements runtime.Runtime. The channel is closed when both are.
func (r *Router) Events(ctx context.Context) <-chan runtime.Exit {
	out := make(chan runtime.Exit)
	var wg sync.WaitGroup
	for _, from := range []<-chan runtime.Exit{r.fast.Events(ctx), r.other.Events(ctx)} {
		wg.Go(func() {
			for x := range from {
				select {
				case out <- x:
				case <-ctx.Done():
				}
			}
		})
	}
	go func() {
		wg.Wait()
		close(out)
	}()
	return out
}
