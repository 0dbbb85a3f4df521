package fake

import (
	"context"
	"errors"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// Freeze implements runtime.Freezer: the container takes no connections and no
// SIGTERM until it is thawed.
func (r *Runtime) Freeze(ctx context.Context, id string) error {
	return r.setFrozen(ctx, "Freeze", id, true)
}

// Thaw implements runtime.Freezer.
func (r *Runtime) Thaw(ctx context.Context, id string) error {
	return r.setFrozen(ctx, "Thaw", id, false)
}

func (r *Runtime) setFrozen(ctx context.Context, method, id string, frozen bool) error {
	if err := r.begin(ctx, method, id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	switch {
	case c == nil || frozen && c.State == runtime.Exited:
		return notFound("container", id)
	case c.script.NoFreezer:
		return errors.ErrUnsupported
	}
	c.frozen = frozen
	if c.term && !frozen && !c.script.IgnoreTERM {
		r.exitAfter(c, c.script.TermDelay, c.script.TermCode, false)
	}
	return nil
}

// Frozen implements runtime.Freezer.
func (r *Runtime) Frozen(ctx context.Context, id string) (bool, error) {
	if err := r.begin(ctx, "Frozen", id); err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return false, notFound("container", id)
	}
	return c.frozen, nil
}
