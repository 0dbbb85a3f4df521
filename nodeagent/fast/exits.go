package fast

import (
	"context"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/nodeagent/launch"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

const (
	// lostExitCode stands for an exit that nobody saw, as in Kubernetes.
	lostExitCode = 137
	// logGrace is how long an exit waits for the last lines of its log.
	logGrace = 500 * time.Millisecond
)

// Events implements runtime.Runtime. A new reader first hears of all
// containers that have ended and are not removed yet.
func (r *Runtime) Events(ctx context.Context) <-chan runtime.Exit {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first []runtime.Exit
	for _, c := range r.containers {
		if c.info.State == runtime.Exited && !c.starting() {
			first = append(first, exitOf(c.info))
		}
	}
	return r.exits.Read(ctx, first)
}

func exitOf(i runtime.Container) runtime.Exit {
	return runtime.Exit{Sandbox: i.Sandbox, Container: i.ID, ExitCode: i.ExitCode, OOMKilled: i.OOMKilled, At: i.FinishedAt}
}

// exited is told by the launcher of the end of a process.
func (r *Runtime) exited(p launch.Process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.execs[p.ID]; x != nil {
		delete(r.execs, p.ID)
		x.exit <- p // has room
		return
	}
	c := r.containers[p.ID]
	if r.closed || c != nil && c.exiting {
		return
	}
	if c == nil { // nobody's: one that was killed when the launcher was found
		r.work.Go(func() {
			ctx, cancel := cleanup(context.Background()) //nolint:forbidigo // bounds a callback
			defer cancel()
			_, _ = r.keeper.Do(ctx, launch.Request{Op: launch.Forget, ID: p.ID}, nil)
		})
		return
	}
	c.exiting = true
	r.work.Go(func() { r.finish(c, p) })
}

func (r *Runtime) finish(c *container, p launch.Process) {
	defer close(c.done)
	if c.settled != nil { // it was started by this process
		c.settled()
	}
	oom := false
	r.mu.Lock()
	sl := c.sandbox.slot
	r.mu.Unlock()
	if sl != nil {
		kills := r.cgroups.OOMKills(r.cgroups.Slot(sl.id))
		oom = p.Code != 0 && kills > sl.ooms
		sl.ooms = kills
	}
	// A start that fails ends its process itself and waits for that: then there
	// is nothing to tell.
	r.mu.Lock()
	c.info.State, c.info.Pid = runtime.Exited, 0
	c.info.ExitCode, c.info.FinishedAt, c.info.OOMKilled = p.Code, p.At, oom
	if p.Code > 128 && p.Code < 128+65 {
		c.info.Signal = p.Code - 128
	}
	r.mu.Unlock()
	r.work.Go(func() { r.tell(c) })
}

// tell waits for the start to be over and for the log, and tells of the exit.
func (r *Runtime) tell(c *container) {
	<-c.started
	if c.failed {
		return
	}
	c.out.Wait(logGrace)
	r.mu.Lock()
	info := c.info
	r.mu.Unlock()
	r.metrics.exited(info.ExitCode, info.OOMKilled)
	r.exits.Emit(exitOf(info))
	c.life.Lock()
	defer c.life.Unlock()
	if r.container(info.ID) == nil {
		return // removed meanwhile
	}
	if err := r.saveContainer(c); err != nil {
		r.c.Log.Debug("keep a container's exit", slog.String("container", info.ID), slog.Any("error", err))
	}
}
