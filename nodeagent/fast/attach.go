package fast

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

var (
	_ runtime.Attacher = (*Runtime)(nil)
	_ runtime.Dialer   = (*Runtime)(nil)
)

// dialTimeout bounds how long a connection that nobody takes holds up its
// sandbox's removal.
const dialTimeout = 5 * time.Second

// Attach implements runtime.Attacher. Containers that read their input or have
// a terminal are for the other runtime: nothing is ever written to one here.
func (r *Runtime) Attach(ctx context.Context, id string, a runtime.Attach) error {
	c := r.container(id)
	if c == nil || c.starting() {
		return notFound("containers", id)
	}
	r.mu.Lock()
	running := c.info.State == runtime.Running
	r.mu.Unlock()
	if !running || c.out == nil {
		return fmt.Errorf("it is not running: %w", notFound("containers", id))
	}
	return c.out.Attach(ctx, a.Stdout, a.Stderr)
}

// DialIn implements runtime.Dialer.
func (r *Runtime) DialIn(ctx context.Context, id, address string) (net.Conn, error) {
	sb := r.sandbox(id)
	if sb == nil {
		return nil, notFound("sandboxes", id)
	}
	// Once it is removed the namespace is another pod's.
	sb.life.RLock()
	defer sb.life.RUnlock()
	r.mu.Lock()
	sl, gone := sb.slot, sb.gone
	r.mu.Unlock()
	if sl == nil || gone {
		return nil, notFound("sandboxes", id)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return network.Dial(ctx, sl.ns, address)
}
