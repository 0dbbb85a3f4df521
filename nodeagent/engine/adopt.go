package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// adopt rebuilds the engine's memory from what containerd has. A sandbox whose
// pause process lives is taken over with its containers; everything else that
// bears our label is removed: containerd keeps metadata over a power loss.
func (e *Engine) adopt(ctx context.Context) error {
	all, err := e.client.ContainerService().List(ctx, "labels."+quote(kindLabel))
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	byID, err := e.tasks(ctx)
	if err != nil {
		return err
	}
	var members, dead []string
	recs := map[string]record{}
	for _, c := range all {
		r, err := parseRecord(c)
		t := byID[c.ID]
		switch {
		case err != nil:
			e.c.Log.Warn("remove a container that is not understood", logID(c.ID), logError(err))
			dead = append(dead, c.ID)
		case r.Container != nil:
			recs[c.ID], members = r, append(members, c.ID)
		case t == nil || t.Status != tasktypes.Status_RUNNING:
			dead = append(dead, c.ID)
		default:
			if err := e.adoptSandbox(r, t); err != nil {
				e.c.Log.Warn("remove a sandbox that cannot be taken over", slog.String("sandbox", c.ID), logError(err))
				dead = append(dead, c.ID)
			}
		}
	}
	for _, id := range members {
		if !e.adoptContainer(ctx, *recs[id].Container, byID[id]) {
			dead = append([]string{id}, dead...) // before its sandbox
		}
	}
	for id := range byID {
		if !slices.Contains(dead, id) && e.container(id) == nil && e.sandbox(id) == nil {
			dead = append(dead, id) // a task without a container
		}
	}
	e.c.Log.Info("took over containers", slog.Int("sandboxes", len(e.sandboxes)), slog.Int("containers", len(e.containers)), slog.Int("removed", len(dead)))
	for _, id := range dead {
		if err := e.destroy(ctx, id, id); err != nil {
			return fmt.Errorf("remove dead container %s: %w", id, err)
		}
	}
	return errors.Join(e.sweep(ctx), e.c.Network.Sweep(ctx))
}

func (e *Engine) adoptSandbox(r record, t *tasktypes.Process) error {
	sb := &sandbox{spec: *r.Spec, info: *r.Sandbox, done: make(chan struct{})}
	sb.info.Pid = int(t.Pid)
	if sb.info.IP != "" {
		ip, err := netip.ParseAddr(sb.info.IP)
		if err != nil {
			return err
		}
		if err := e.c.Network.Adopt(sb.info.ID, ip); err != nil {
			return err
		}
		if sb.info.IP6 != network.Text(e.c.Network.Second(ip)) {
			sb.info.IP6 = "" // of a time when the cluster had other networks
		}
		if err := e.settle(sb); err != nil {
			return err
		}
	}
	e.sandboxes[sb.info.ID] = sb
	return nil
}

// adoptContainer says whether the container is worth keeping.
func (e *Engine) adoptContainer(ctx context.Context, info runtime.Container, t *tasktypes.Process) bool {
	sb := e.sandboxes[info.Sandbox]
	if sb == nil || (t != nil && t.Status == tasktypes.Status_CREATED) {
		return false
	}
	c := &container{
		cgroup: e.cgroups.Of(string(sb.spec.UID), info.ID), info: info,
		started: make(chan struct{}), done: make(chan struct{}),
	}
	close(c.started)
	e.containers[info.ID] = c
	if info.State == runtime.Exited {
		c.exiting = true
		close(c.done)
		if t != nil { // its end was kept, the task not yet deleted
			e.deleteTask(ctx, info.ID)
		}
		return true
	}
	if t == nil {
		e.exited(ctx, info.ID, lostExitCode, time.Now())
		return true
	}
	c.info.Pid = int(t.Pid)
	var err error
	if c.logs, err = e.startLogs(&info, true); err != nil {
		e.c.Log.Warn("attach to a container's log", logID(info.ID), logError(err))
	}
	if t.Status == tasktypes.Status_STOPPED {
		e.exited(ctx, info.ID, int(t.ExitStatus), t.ExitedAt.AsTime())
	}
	return true
}

// sweep removes what lies about without a sandbox or container: snapshots,
// directories, mounts, cgroups.
func (e *Engine) sweep(ctx context.Context) error {
	var lost []string
	err := e.snapshots.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if e.container(i.Name) == nil {
			lost = append(lost, i.Name)
		}
		return nil
	}, "labels."+quote(kindLabel))
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, name := range lost {
		if err := e.snapshots.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove snapshot %s: %w", name, err)
		}
	}
	for _, name := range names(e.sandboxDir("")) {
		if e.sandbox(name) == nil {
			if err := removeMounted(e.sandboxDir(name)); err != nil {
				return err
			}
		}
	}
	for _, name := range names(e.fifoDir("")) {
		if e.container(name) == nil {
			if err := os.RemoveAll(e.fifoDir(name)); err != nil {
				return err
			}
		}
	}
	var uids []string
	for _, sb := range e.sandboxes {
		uids = append(uids, string(sb.spec.UID))
	}
	for _, uid := range e.cgroups.Pods() {
		if !slices.Contains(uids, uid) {
			if err := e.cgroups.Remove(e.cgroups.Pod(uid)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Teardown removes everything the engine has made on the node but images and
// logs: containers, sandboxes, their snapshots, mounts, cgroups, FIFOs, and
// the pod network. New sandboxes must not be started meanwhile. It works while
// Run runs and without it.
func (e *Engine) Teardown(ctx context.Context) error {
	ctx = e.ns(ctx)
	e.mu.Lock()
	var ids []string
	for id := range e.sandboxes {
		ids = append(ids, id)
	}
	e.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(8)
	for _, id := range ids {
		g.Go(func() error { return e.RemoveSandbox(ctx, id) })
	}
	err := g.Wait()
	return errors.Join(err, e.sweep(ctx), e.c.Network.Teardown(ctx), e.cgroups.Remove(e.cgroups.Parent),
		os.RemoveAll(e.sandboxDir("")), os.RemoveAll(e.fifoDir("")))
}

func names(dir string) []string {
	all, _ := os.ReadDir(dir)
	out := make([]string, len(all))
	for i, e := range all {
		out[i] = e.Name()
	}
	return out
}

// quote puts a word into containerd's filter language.
func quote(word string) string { return `"` + word + `"` }
