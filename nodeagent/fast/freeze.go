package fast

import (
	"context"
	"fmt"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

var _ runtime.Freezer = (*Runtime)(nil)

// Freeze implements runtime.Freezer.
func (r *Runtime) Freeze(_ context.Context, id string) error { return r.freeze(id, true) }

// Thaw implements runtime.Freezer.
func (r *Runtime) Thaw(_ context.Context, id string) error { return r.freeze(id, false) }

// Frozen implements runtime.Freezer.
func (r *Runtime) Frozen(_ context.Context, id string) (bool, error) {
	c := r.container(id)
	if c == nil {
		return false, notFound("containers", id)
	}
	r.mu.Lock()
	sl := c.sandbox.slot
	r.mu.Unlock()
	if sl == nil {
		return false, notFound("containers", id)
	}
	return r.cgroups.Frozen(r.cgroups.Slot(sl.id))
}

func (r *Runtime) freeze(id string, frozen bool) error {
	c := r.container(id)
	if c == nil {
		return notFound("containers", id)
	}
	r.mu.Lock()
	sl, over := c.sandbox.slot, c.info.State == runtime.Exited
	r.mu.Unlock()
	if sl == nil || over && frozen {
		return notFound("containers", id)
	}
	if err := r.cgroups.Freeze(r.cgroups.Slot(sl.id), frozen); err != nil {
		return fmt.Errorf("freeze container %s: %w", id, err)
	}
	return nil
}
