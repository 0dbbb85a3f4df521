package fast

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/confine"
	"github.com/podsnap/podsnap/nodeagent/launch"
	"github.com/podsnap/podsnap/nodeagent/output"
	"github.com/podsnap/podsnap/nodeagent/program"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

// Exec implements runtime.Runtime. When ctx ends first the process is killed
// and the error is ctx's cause. A command that cannot be run is a StartError.
func (r *Runtime) Exec(ctx context.Context, id string, x runtime.Exec) (int, error) {
	c := r.container(id)
	if c == nil {
		return 0, notFound("containers", id)
	}
	if len(x.Command) == 0 {
		return 0, startError("StartError", spec.ErrNoCommand)
	}
	code, err := r.exec(ctx, c, x)
	if err != nil {
		return 0, fmt.Errorf("exec in container %q: %w", c.info.Name, err)
	}
	return code, nil
}

func (r *Runtime) exec(ctx context.Context, c *container, x runtime.Exec) (int, error) {
	r.mu.Lock()
	alive, sl := c.info.State == runtime.Running, c.sandbox.slot
	r.mu.Unlock()
	if !alive || sl == nil || c.starting() {
		return 0, fmt.Errorf("it is not running: %w", notFound("containers", c.info.ID))
	}
	id := newID()
	streams, err := r.stdio(c, id, x)
	if err != nil {
		return 0, err
	}
	defer streams.close()
	exit, err := r.enter(ctx, c, sl, id, x, streams.paths())
	defer func() {
		r.mu.Lock()
		delete(r.execs, id)
		r.mu.Unlock()
	}()
	if err != nil {
		return 0, err
	}
	copying, stop := context.WithCancel(ctx)
	defer stop()
	streams.copy(copying, x)
	select {
	case p := <-exit:
		streams.wait()
		return p.Code, nil
	case <-ctx.Done():
		r.hangUp(ctx, id, exit, x.Hangup)
		return 0, context.Cause(ctx)
	}
}

// stdio is what an exec has for its standard streams.
type stdio interface {
	paths() [3]string                         // what the process opens; "" is nothing
	copy(ctx context.Context, x runtime.Exec) // begins to, when the process has its ends
	wait()                                    // for the last output
	close()
}

func (r *Runtime) stdio(c *container, id string, x runtime.Exec) (stdio, error) {
	if !x.TTY {
		return makePipes(r.containerDir(c), id, x)
	}
	r.mu.Lock()
	pid := c.info.Pid
	r.mu.Unlock()
	if pid == 0 {
		return nil, fmt.Errorf("it is not running: %w", notFound("containers", c.info.ID))
	}
	return newTerminal(pid)
}

// enter has the launcher run the process. The channel tells its end; it is
// known as id until it is taken out of r.execs.
func (r *Runtime) enter(ctx context.Context, c *container, sl *slot, id string, x runtime.Exec, paths [3]string) (<-chan launch.Process, error) {
	made, process := *c.made, *c.made.Process
	process.Args, process.Terminal, process.Env = x.Command, x.TTY, spec.Terminal(process.Env, x.TTY)
	made.Process = &process
	in := confine.Input{ID: c.info.ID, Spec: &made, Join: r.cgroups.Join(r.cgroups.Slot(sl.id)), Stdin: paths[0], Stdout: paths[1], Stderr: paths[2]}
	var err error
	if made.Linux.Seccomp != nil {
		if in.Filter, err = r.filter(&made); err != nil {
			return nil, err
		}
	}
	prog, second, err := confine.Enter(in)
	if err != nil {
		return nil, err
	}
	exit := make(chan launch.Process, 1)
	it := &running{exit: exit}
	r.mu.Lock()
	r.execs[id] = it
	r.mu.Unlock()
	_, err = r.keeper.Do(ctx, launch.Request{Op: launch.Exec, ID: id, Of: c.info.ID, Second: second, Cgroup: r.cgroups.Born(r.cgroups.Slot(sl.id))}, prog.Image)
	if f, ok := errors.AsType[*program.Fault](err); ok {
		return nil, startError("StartError", spec.Explain(c.info.Name, &process, prog.Explain(f)))
	}
	if errors.Is(err, launch.ErrNone) {
		return nil, fmt.Errorf("it is not running: %w", notFound("containers", c.info.ID))
	}
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	it.runs = true
	r.mu.Unlock()
	return exit, nil
}

// hangUp ends a process whose client has gone.
func (r *Runtime) hangUp(ctx context.Context, id string, exit <-chan launch.Process, grace time.Duration) {
	undo, cancel := cleanup(ctx)
	defer cancel()
	if grace > 0 {
		if _, err := r.keeper.Do(undo, launch.Request{Op: launch.Signal, ID: id, Sig: syscall.SIGHUP}, nil); err == nil {
			t := time.NewTimer(grace)
			defer t.Stop()
			select {
			case <-exit:
				return
			case <-t.C:
			case <-undo.Done():
			}
		}
	}
	if _, err := r.keeper.Do(undo, launch.Request{Op: launch.Signal, ID: id, Sig: syscall.SIGKILL}, nil); err == nil {
		select {
		case <-exit:
		case <-undo.Done():
		}
	}
}

// running is an exec. Runtime.mu guards runs.
type running struct {
	exit chan launch.Process // has room
	runs bool                // it has been started
}

// lostExecs gives those up whose launcher is gone: the next one does not know
// them.
func (r *Runtime) lostExecs() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, x := range r.execs {
		if x.runs {
			delete(r.execs, id)
			x.exit <- launch.Process{ID: id, Ended: true, Code: lostExitCode, At: time.Now()}
		}
	}
}

// pipes are the FIFOs of an exec: standard input, output and error.
type pipes struct {
	at     [3]string
	ours   [3]*os.File // the ends that we use
	theirs [3]*os.File // stand in for the process's until it has its own
	output sync.WaitGroup
	last   output.Last
}

func makePipes(dir, id string, x runtime.Exec) (*pipes, error) {
	p := &pipes{}
	for i, wanted := range []bool{x.Stdin != nil, x.Stdout != nil, x.Stderr != nil} {
		if !wanted {
			continue
		}
		p.at[i] = filepath.Join(dir, fmt.Sprintf("%s.%d", id, i))
		err := unix.Mkfifo(p.at[i], 0o600)
		var r, w *os.File
		if err == nil {
			r, err = os.OpenFile(p.at[i], os.O_RDONLY|unix.O_NONBLOCK, 0)
		}
		if err == nil {
			w, err = os.OpenFile(p.at[i], os.O_WRONLY|unix.O_NONBLOCK, 0)
		}
		p.ours[i], p.theirs[i] = r, w
		if i == 0 {
			p.ours[i], p.theirs[i] = w, r
		}
		if err != nil {
			p.close()
			return nil, fmt.Errorf("make pipes: %w", err)
		}
	}
	return p, nil
}

func (p *pipes) paths() [3]string { return p.at }

// copy passes the streams on. The process has its ends.
func (p *pipes) copy(_ context.Context, x runtime.Exec) {
	for _, f := range p.theirs {
		if f != nil {
			f.Close()
		}
	}
	if in := p.ours[0]; in != nil {
		go func() { // ends when its reader does: nobody else can end that
			_, _ = io.Copy(in, x.Stdin)
			in.Close()
		}()
	}
	for i, w := range []io.Writer{nil, x.Stdout, x.Stderr} {
		if f := p.ours[i]; f != nil && w != nil {
			p.output.Go(func() { _, _ = io.Copy(p.last.Through(w), f) })
		}
	}
}

// wait waits for the last output: a child of the process may hold it open.
func (p *pipes) wait() { p.last.Wait(p.output.Wait, p.shut) }

func (p *pipes) shut() {
	for _, f := range p.ours {
		if f != nil {
			f.Close()
		}
	}
}

func (p *pipes) close() {
	p.shut()
	for i, f := range p.theirs {
		if f != nil {
			f.Close()
		}
		if p.at[i] != "" {
			_ = os.Remove(p.at[i])
		}
	}
	p.output.Wait()
}
