package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

const (
	exitTopic = "/tasks/exit"
	oomTopic  = "/tasks/oom"
	markTopic = "/podsnap/mark" // our own: the stream is live

	// lostExitCode stands for an exit that nobody saw, as in Kubernetes.
	lostExitCode = 137
	// logGrace is how long an exit waits for the last lines of its log.
	logGrace = 500 * time.Millisecond
)

// Run follows containerd's events until ctx is done, over restarts of
// containerd. It returns nil when everything the engine runs has ended;
// containers go on. The engine is of no use after that.
func (e *Engine) Run(ctx context.Context) error {
	defer e.close()
	ctx = e.ns(ctx)
	for {
		err := e.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		e.c.Log.Warn("containerd's event stream ended; connecting again", logError(err))
		t := time.NewTimer(50 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// follow hears one event stream to its end. As soon as the stream is known to
// be live, what was missed before is made up for.
func (e *Engine) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stream, errs := e.client.Subscribe(ctx,
		e.filter(exitTopic), e.filter(oomTopic), e.filter(markTopic))
	mark := newID()
	live := make(chan struct{})
	wg.Go(func() { e.sendMarks(ctx, mark, live) })
	for {
		select {
		case ev := <-stream:
			if e.heard(ctx, ev, mark) && live != nil {
				close(live)
				live = nil
				if err := e.resync(ctx); err != nil {
					return err
				}
			}
		case err := <-errs:
			if err == nil {
				err = errors.New("closed")
			}
			return err
		}
	}
}

// filter selects our namespace's events of one topic.
func (e *Engine) filter(topic string) string {
	return "topic==" + quote(topic) + ",namespace==" + quote(e.c.Namespace)
}

// sendMarks publishes an event until it has come back: subscribing returns
// before containerd has set the subscription up.
func (e *Engine) sendMarks(ctx context.Context, mark string, live <-chan struct{}) {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		if err := e.client.EventService().Publish(ctx, markTopic, &apievents.TaskStart{ContainerID: mark}); err != nil && ctx.Err() == nil {
			e.c.Log.Debug("publish mark", logError(err))
		}
		select {
		case <-live:
			return
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// heard deals with one event and says whether it was the mark.
func (e *Engine) heard(ctx context.Context, ev *events.Envelope, mark string) bool {
	v, err := typeurl.UnmarshalAny(ev.Event)
	if err != nil {
		e.c.Log.Warn("containerd event", slog.String("topic", ev.Topic), logError(err))
		return false
	}
	switch v := v.(type) {
	case *apievents.TaskStart:
		return v.ContainerID == mark
	case *apievents.TaskOOM:
		if c := e.container(v.ContainerID); c != nil {
			e.mu.Lock()
			c.oom = true
			e.mu.Unlock()
		}
	case *apievents.TaskExit:
		if v.ID == v.ContainerID { // not of an exec
			e.exited(ctx, v.ContainerID, int(v.ExitStatus), v.ExitedAt.AsTime())
		}
	}
	return false
}

// resync finds the exits that no event has told of.
func (e *Engine) resync(ctx context.Context) error {
	// Who is asked about comes first: what is started after this is not lost.
	e.mu.Lock()
	var running []string
	for id, c := range e.containers {
		if c.info.State == runtime.Running && !c.starting() {
			running = append(running, id)
		}
	}
	for id, sb := range e.sandboxes {
		if sb.info.Pid != 0 {
			running = append(running, id)
		}
	}
	e.mu.Unlock()
	byID, err := e.tasks(ctx)
	if err != nil {
		return err
	}
	for _, id := range running {
		switch t := byID[id]; {
		case t == nil:
			e.exited(ctx, id, lostExitCode, time.Now())
		case t.Status == tasktypes.Status_STOPPED:
			e.exited(ctx, id, int(t.ExitStatus), t.ExitedAt.AsTime())
		}
	}
	return nil
}

func (e *Engine) tasks(ctx context.Context) (map[string]*tasktypes.Process, error) {
	list, err := e.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", errgrpc.ToNative(err))
	}
	byID := map[string]*tasktypes.Process{}
	for _, t := range list.Tasks {
		byID[t.ID] = t
	}
	return byID, nil
}

// exited deals with the end of a container or pause process, once; the answer
// is closed when that is done, and nil for an id that is not known.
func (e *Engine) exited(ctx context.Context, id string, code int, at time.Time) <-chan struct{} {
	ctx = context.WithoutCancel(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[id]; c != nil {
		if !c.exiting && !e.closed {
			c.exiting = true
			e.work.Go(func() { e.finishContainer(ctx, c, code, at) })
		}
		return c.done
	}
	if sb := e.sandboxes[id]; sb != nil {
		if !sb.exiting && !e.closed {
			sb.exiting = true
			e.work.Go(func() { e.finishSandbox(ctx, sb, code, at) })
		}
		return sb.done
	}
	return nil
}

func (e *Engine) finishContainer(ctx context.Context, c *container, code int, at time.Time) {
	defer close(c.done)
	ctx, cancel := e.cleanup(ctx)
	defer cancel()
	oom := code != 0 && e.cgroups.OOMKills(c.cgroup) > 0 // before the group goes with the task
	<-c.started
	c.logs.Wait(logGrace)
	e.mu.Lock()
	c.info.State, c.info.Pid = runtime.Exited, 0
	c.info.ExitCode, c.info.FinishedAt = code, at
	c.info.OOMKilled = oom || (c.oom && code != 0)
	if code > 128 && code < 128+65 {
		c.info.Signal = code - 128
	}
	info, failed := c.info, c.failed
	e.mu.Unlock()
	if !failed {
		e.metrics.exited(code, info.OOMKilled)
		e.exits.Emit(runtime.Exit{Sandbox: info.Sandbox, Container: info.ID, ExitCode: code, OOMKilled: info.OOMKilled, At: at})
		if err := e.saveRecord(ctx, info.ID, record{Container: &info}); err != nil && !errdefs.IsNotFound(err) {
			e.c.Log.Warn("keep a container's exit", logID(info.ID), logError(err))
		}
	}
	e.deleteTask(ctx, info.ID)
}

func (e *Engine) finishSandbox(ctx context.Context, sb *sandbox, code int, at time.Time) {
	defer close(sb.done)
	ctx, cancel := e.cleanup(ctx)
	defer cancel()
	e.mu.Lock()
	sb.info.Pid = 0
	gone := sb.gone
	e.mu.Unlock()
	if !gone {
		e.c.Log.Warn("a sandbox's pause process has ended", slog.String("sandbox", sb.info.ID), slog.Int("exit_code", code))
		e.exits.Emit(runtime.Exit{Sandbox: sb.info.ID, ExitCode: code, At: at})
	}
	e.deleteTask(ctx, sb.info.ID)
}

// deleteTask frees the ended task: its mounts, its cgroup, its shim.
func (e *Engine) deleteTask(ctx context.Context, id string) {
	_, err := e.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		e.c.Log.Warn("delete an ended task", logID(id), logError(err))
	}
}

func (e *Engine) saveRecord(ctx context.Context, id string, r record) error {
	ext, err := r.any()
	if err != nil {
		return err
	}
	_, err = e.client.ContainerService().Update(ctx, containers.Container{ID: id, Extensions: ext}, "extensions")
	return err
}

// Events implements runtime.Runtime. A new reader first hears of all
// containers that have ended and are not removed yet. The channel is closed
// at the end.
func (e *Engine) Events(ctx context.Context) <-chan runtime.Exit {
	e.mu.Lock()
	defer e.mu.Unlock()
	var first []runtime.Exit
	for _, sb := range e.sandboxes {
		if sb.exiting && !sb.gone && sb.info.Pid == 0 {
			first = append(first, runtime.Exit{Sandbox: sb.info.ID, ExitCode: lostExitCode, At: time.Now()})
		}
	}
	for _, c := range e.containers {
		if i := c.info; i.State == runtime.Exited && !c.starting() {
			first = append(first, runtime.Exit{Sandbox: i.Sandbox, Container: i.ID, ExitCode: i.ExitCode, OOMKilled: i.OOMKilled, At: i.FinishedAt})
		}
	}
	return e.exits.Read(ctx, first)
}
