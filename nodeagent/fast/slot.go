package fast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/podsnap/podsnap/nodeagent/cgroup"
	"github.com/podsnap/podsnap/nodeagent/launch"
	"github.com/podsnap/podsnap/nodeagent/network"
)

// slot is a parked sandbox: what is made before there is a pod for it. Its
// namespace is held open here and in the launcher.
type slot struct {
	id    string
	ip    netip.Addr
	ns    *os.File
	dirty bool    // something was changed that is not undone: not to be used again
	ooms  int64   // kills that its group counted before the present container
	spent float64 // CPU seconds that it counted before the present sandbox; Runtime.mu guards it once there is one
}

// netns is a path at which the namespace can be opened, for as long as we run.
func (s *slot) netns() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.ns.Fd()) }

func (r *Runtime) makeSlot(ctx context.Context) (_ *slot, err error) {
	ns, err := network.NewNamespace()
	if err != nil {
		return nil, err
	}
	s := &slot{id: newID(), ns: ns}
	defer func() { //nolint:contextcheck // undoing outlives ctx
		if err != nil {
			r.destroySlot(s)
		}
	}()
	if s.ip, err = r.c.Network.Attach(ctx, s.id, s.netns()); err != nil {
		return nil, err
	}
	if err := r.c.Network.Confine(s.id); err != nil { // only functions run here
		return nil, err
	}
	// Processes without capabilities may serve port 80.
	if err := network.Sysctl(ns, "net/ipv4/ip_unprivileged_port_start", "0"); err != nil {
		return nil, err
	}
	if err := r.cgroups.MakeSlot(s.id); err != nil {
		return nil, err
	}
	if _, err := r.keeper.Do(ctx, launch.Request{Op: launch.Hold, Name: s.id, Path: s.netns()}, nil); err != nil {
		return nil, fmt.Errorf("hold network namespace: %w", err)
	}
	return s, nil
}

// recycleSlot makes a slot as good as new. Its processes are gone.
func (r *Runtime) recycleSlot(s *slot) (*slot, error) {
	ctx, cancel := context.WithTimeout(r.fill, 10*time.Second)
	defer cancel()
	group := r.cgroups.Slot(s.id)
	err := r.cgroups.Reset(group)
	if errors.Is(err, cgroup.ErrUsed) {
		err = r.cgroups.RenewSlot(s.id)
	}
	if err != nil {
		return nil, err
	}
	s.ooms, s.spent = r.cgroups.OOMKills(group), r.cgroups.Spent(group)
	s.ip, err = r.c.Network.Recycle(ctx, s.id, s.netns())
	return s, err
}

// renew gives a slot a new group, which has counted nothing.
func (r *Runtime) renew(s *slot) error {
	if err := r.cgroups.RenewSlot(s.id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.ooms, s.spent = 0, 0
	return nil
}

// destroySlot takes a slot apart. It works on one that is half made.
func (r *Runtime) destroySlot(s *slot) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) //nolint:forbidigo // undoing outlives whoever asked
	defer cancel()
	err := r.cgroups.Remove(r.cgroups.Slot(s.id))
	if s.ns != nil {
		s.ns.Close()
	}
	_, dropErr := r.keeper.Do(ctx, launch.Request{Op: launch.Drop, Name: s.id}, nil)
	if errors.Is(dropErr, launch.ErrClosed) || errors.Is(dropErr, launch.ErrLost) {
		dropErr = nil // a launcher that is gone holds nothing; the next agent asks it
	}
	if err := errors.Join(err, dropErr, r.c.Network.Detach(ctx, s.id)); err != nil {
		r.c.Log.Warn("remove a parked sandbox", slog.String("slot", s.id), slog.Any("error", err))
	}
}
