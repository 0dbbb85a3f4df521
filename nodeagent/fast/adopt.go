package fast

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/launch"
	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/output"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// readRecords reads what a former runtime has left, and takes its addresses.
func (r *Runtime) readRecords() error {
	for _, id := range names(r.sandboxDir("")) {
		var rec sandboxRecord
		err := load(filepath.Join(r.sandboxDir(id), "sandbox.json"), &rec)
		var ip netip.Addr
		if err == nil {
			ip, err = netip.ParseAddr(rec.Sandbox.IP)
		}
		if err == nil && rec.Sandbox.ID != id {
			err = errors.New("it is another sandbox's")
		}
		if err == nil {
			err = r.c.Network.Adopt(rec.Slot, ip)
		}
		if rec.Sandbox.IP6 != network.Text(r.c.Network.Second(ip)) {
			rec.Sandbox.IP6 = "" // of a time when the cluster had other networks
		}
		if err == nil {
			err = r.c.Network.Confine(rec.Slot)
		}
		if err != nil {
			r.c.Log.Warn("remove a sandbox that is not understood", slog.String("sandbox", id), slog.Any("error", err))
			if err := os.RemoveAll(r.sandboxDir(id)); err != nil {
				return err
			}
			continue
		}
		sb := &sandbox{spec: rec.Spec, info: rec.Sandbox, slot: &slot{id: rec.Slot, ip: ip, ooms: rec.OOMs, spent: rec.Spent}}
		r.sandboxes[id] = sb
		for _, name := range names(r.sandboxDir(id)) {
			r.readContainer(sb, name)
		}
	}
	return nil
}

func (r *Runtime) readContainer(sb *sandbox, id string) {
	var rec containerRecord
	if st, err := os.Stat(filepath.Join(r.sandboxDir(sb.info.ID), id)); err != nil || !st.IsDir() {
		return
	}
	c := &container{sandbox: sb, started: make(chan struct{}), done: make(chan struct{})}
	close(c.started)
	err := load(filepath.Join(r.sandboxDir(sb.info.ID), id, "container.json"), &rec)
	if err != nil || rec.Container.ID != id || rec.Spec == nil {
		r.c.Log.Warn("remove a container that is not understood", slog.String("container", id), slog.Any("error", err))
		_ = os.RemoveAll(filepath.Join(r.sandboxDir(sb.info.ID), id))
		return // its process, if there is one, is nobody's and will be killed
	}
	c.info, c.made, c.chain = rec.Container, rec.Spec, rec.Chain
	if rec.Root != "" {
		c.root = &rootfs{id: rec.Root}
	}
	if c.info.State == runtime.Exited {
		c.exiting = true
		close(c.done)
	}
	r.containers[id] = c
}

func load(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// connected compares what we know with what the launcher has: after our own
// start with all that a former runtime left, later with what a new launcher has
// adopted.
func (r *Runtime) connected(w launch.Welcome, conn *launch.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) //nolint:forbidigo // bounds a callback
	defer cancel()
	first := false
	select {
	case <-r.adopted:
	default:
		first = true
	}
	if first {
		r.adoptSandboxes(w)
	} else {
		r.lostExecs()
	}
	r.mu.Lock()
	r.launcher = w.Pid
	var held []*slot
	for _, sb := range r.sandboxes {
		if sb.slot != nil {
			sb.info.Pid = w.Pid
			held = append(held, sb.slot)
		}
	}
	r.mu.Unlock()
	r.pool.Each(func(s *slot) { held = append(held, s) })
	known := map[string]bool{}
	for _, s := range held {
		known[s.id] = true
		if _, ok := w.Held[s.id]; !ok {
			if _, err := conn.Do(ctx, launch.Request{Op: launch.Hold, Name: s.id, Path: s.netns()}, nil); err != nil {
				r.c.Log.Warn("hold network namespace", slog.String("slot", s.id), slog.Any("error", err))
			}
		}
	}
	r.adoptProcesses(ctx, w, conn)
	if !first {
		return
	}
	for name := range w.Held {
		if !known[name] { // parked by a former runtime
			_, _ = conn.Do(ctx, launch.Request{Op: launch.Drop, Name: name}, nil)
		}
	}
	inUse := r.usedRootfs()
	for _, name := range w.Shelved {
		if !inUse[name] {
			_, _ = conn.Do(ctx, launch.Request{Op: launch.Unshelve, Name: name}, nil)
		}
	}
	r.sweep(known, inUse)
	r.c.Log.Info("took over containers of the fast runtime", slog.Int("sandboxes", len(r.sandboxes)), slog.Int("containers", len(r.containers)))
	close(r.adopted)
}

// adoptSandboxes opens the sandboxes' namespaces: the launcher holds them, or
// their processes do. A sandbox without is dead.
func (r *Runtime) adoptSandboxes(w launch.Welcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pids := map[string]int{}
	for _, p := range w.Processes {
		if c := r.containers[p.ID]; c != nil && !p.Ended {
			pids[c.info.Sandbox] = p.Pid
		}
	}
	for id, sb := range r.sandboxes {
		path := ""
		if fd, ok := w.Held[sb.slot.id]; ok {
			path = fmt.Sprintf("/proc/%d/fd/%d", w.Pid, fd)
		} else if pid := pids[id]; pid != 0 {
			path = fmt.Sprintf("/proc/%d/ns/net", pid)
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			r.c.Log.Warn("a sandbox is lost", slog.String("sandbox", id), slog.Any("error", err))
			_ = r.c.Network.Detach(context.Background(), sb.slot.id) //nolint:forbidigo // does not wait
			sb.slot, sb.info.Pid = nil, 0
			continue
		}
		sb.slot.ns = os.NewFile(uintptr(fd), "netns")
	}
}

// adoptProcesses tells of ends that nobody has heard of, attaches to the logs
// of what runs, and ends what is not known.
func (r *Runtime) adoptProcesses(ctx context.Context, w launch.Welcome, conn *launch.Conn) {
	byID := map[string]launch.Process{}
	for _, p := range w.Processes {
		byID[p.ID] = p
		if r.container(p.ID) == nil {
			_, _ = conn.Do(ctx, launch.Request{Op: launch.Signal, ID: p.ID, Sig: syscall.SIGKILL}, nil)
			_, _ = conn.Do(ctx, launch.Request{Op: launch.Forget, ID: p.ID}, nil)
		}
	}
	r.mu.Lock()
	var running []*container
	for _, c := range r.containers {
		if c.info.State == runtime.Running && !c.starting() {
			running = append(running, c)
		}
	}
	r.mu.Unlock()
	for _, c := range running {
		p, ok := byID[c.info.ID]
		if c.out == nil {
			out, err := output.Start(output.Config{
				Dir: r.containerDir(c), Log: c.info.LogPath, MaxSize: r.c.LogMaxSize, Files: r.c.LogFiles, Adopted: true, Logger: r.c.Log,
			}, &r.work)
			if err != nil {
				r.c.Log.Warn("attach to a container's log", slog.String("container", c.info.ID), slog.Any("error", err))
			}
			r.mu.Lock()
			c.out = out
			r.mu.Unlock()
		}
		switch {
		case !ok:
			if sl := c.sandbox.slot; sl != nil {
				_ = r.cgroups.Kill(r.cgroups.Slot(sl.id))
			}
			r.exited(launch.Process{ID: c.info.ID, Code: lostExitCode, At: time.Now()}) //nolint:contextcheck // goes on in the background
		case p.Ended:
			r.exited(p) //nolint:contextcheck // goes on in the background
		}
	}
}

// usedRootfs are the root file systems of containers, by their ids.
func (r *Runtime) usedRootfs() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]bool{}
	for _, c := range r.containers {
		if c.root != nil {
			out[c.root.id] = true
		}
	}
	return out
}

// sweep removes what lies about without a sandbox or container.
func (r *Runtime) sweep(slots, roots map[string]bool) {
	var errs []error
	for _, id := range r.cgroups.Slots() {
		if !slots[id] {
			errs = append(errs, r.cgroups.Remove(r.cgroups.Slot(id)))
		}
	}
	for _, id := range names(r.upperDir("")) {
		if !roots[id] {
			errs = append(errs, os.Rename(r.upperDir(id), r.trashDir(id)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		r.c.Log.Warn("remove what a former runtime left", slog.Any("error", err))
	}
	select {
	case r.trash <- struct{}{}:
	default:
	}
}

// sweepViews gives images' layers free that nothing has any more: now, and once
// in a while.
func (r *Runtime) sweepViews(ctx context.Context) {
	if r.ready(ctx) != nil {
		return
	}
	t := time.NewTicker(10 * time.Minute)
	defer t.Stop()
	for {
		r.mu.Lock()
		images, used := r.images, map[string]bool{}
		for _, c := range r.containers {
			used[c.chain] = true
		}
		r.mu.Unlock()
		r.expireRootfsPools(time.Now(), false)
		r.roots.chains(used)
		if images != nil {
			if err := images.SweepViews(ctx, used); err != nil && ctx.Err() == nil {
				r.c.Log.Warn("give layers free", slog.Any("error", err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Teardown removes everything that the runtime has made on the node but logs:
// containers, sandboxes, parked ones, control groups, files, and the launcher.
// New sandboxes must not be started meanwhile. Run runs, and ends by it.
func (r *Runtime) Teardown(ctx context.Context) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	var ids []string
	for id := range r.sandboxes {
		ids = append(ids, id)
	}
	r.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(8)
	for _, id := range ids {
		g.Go(func() error { return r.RemoveSandbox(ctx, id) })
	}
	err := g.Wait()
	r.drain()
	r.roots.close()
	r.filled.Wait()
	r.pool.Close()
	r.expireRootfsPools(time.Now(), true)
	err = errors.Join(err, r.keeper.Quit(ctx))
	group := filepath.Dir(r.cgroups.Slot("x"))
	err = errors.Join(err, r.cgroups.Remove(group))
	if e := unix.Unmount(r.runDir(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); e != nil {
		err = errors.Join(err, fmt.Errorf("unmount %s: %w", r.runDir(), e))
	}
	return errors.Join(err, os.RemoveAll(r.c.StateDir))
}
