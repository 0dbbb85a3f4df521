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
	pipes, err := makePipes(r.containerDir(c), id, x)
	if err != nil {
		return 0, err
	}
	defer pipes.close()
	made, process := *c.made, *c.made.Process
	process.Args, process.Terminal = x.Command, false
	made.Process = &process
	in := confine.Input{ID: c.info.ID, Spec: &made, Join: r.cgroups.Join(r.cgroups.Slot(sl.id)), Stdin: pipes.paths[0], Stdout: pipes.paths[1], Stderr: pipes.paths[2]}
	if made.Linux.Seccomp != nil {
		if in.Filter, err = r.filter(&made); err != nil {
			return 0, err
		}
	}
	prog, second, err := confine.Enter(in)
	if err != nil {
		return 0, err
	}
	exit := make(chan launch.Process, 1)
	it := &running{exit: exit}
	r.mu.Lock()
	r.execs[id] = it
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.execs, id)
		r.mu.Unlock()
	}()
	_, err = r.keeper.Do(ctx, launch.Request{Op: launch.Exec, ID: id, Of: c.info.ID, Second: second, Cgroup: r.cgroups.Born(r.cgroups.Slot(sl.id))}, prog.Image)
	if f, ok := errors.AsType[*program.Fault](err); ok {
		return 0, startError("StartError", spec.Explain(c.info.Name, &process, prog.Explain(f)))
	}
	if errors.Is(err, launch.ErrNone) {
		return 0, fmt.Errorf("it is not running: %w", notFound("containers", c.info.ID))
	}
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	it.runs = true
	r.mu.Unlock()
	pipes.copy(x)
	select {
	case p := <-exit:
		pipes.wait()
		return p.Code, nil
	case <-ctx.Done():
		undo, cancel := cleanup(ctx)
		defer cancel()
		if _, err := r.keeper.Do(undo, launch.Request{Op: launch.Signal, ID: id, Sig: syscall.SIGKILL}, nil); err == nil {
			select {
			case <-exit:
			case <-undo.Done():
			}
		}
		return 0, context.Cause(ctx)
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
	paths  [3]string
	ours   [3]*os.File // the ends that we use
	theirs [3]*os.File // stand in for the process's until it has its own
	output sync.WaitGroup
}

func makePipes(dir, id string, x runtime.Exec) (*pipes, error) {
	p := &pipes{}
	for i, wanted := range []bool{x.Stdin != nil, x.Stdout != nil, x.Stderr != nil} {
		if !wanted {
			continue
		}
		p.paths[i] = filepath.Join(dir, fmt.Sprintf("%s.%d", id, i))
		err := unix.Mkfifo(p.paths[i], 0o600)
		var r, w *os.File
		if err == nil {
			r, err = os.OpenFile(p.paths[i], os.O_RDONLY|unix.O_NONBLOCK, 0)
		}
		if err == nil {
			w, err = os.OpenFile(p.paths[i], os.O_WRONLY|unix.O_NONBLOCK, 0)
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

// copy passes the streams on. The process has its ends.
func (p *pipes) copy(x runtime.Exec) {
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
			p.output.Go(func() { _, _ = io.Copy(w, f) })
		}
	}
}

// wait waits for the last output, for 2 s at most: a child of the process may
// hold it open.
func (p *pipes) wait() {
	t := time.AfterFunc(2*time.Second, p.shut)
	defer t.Stop()
	p.output.Wait()
}

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
		if p.paths[i] != "" {
			_ = os.Remove(p.paths[i])
		}
	}
	p.output.Wait()
}
