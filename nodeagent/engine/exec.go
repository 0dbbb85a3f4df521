package engine

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/output"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

// Exec implements runtime.Runtime. When ctx ends first the process is killed
// and the error is ctx's cause. A command that cannot be run is a StartError.
func (e *Engine) Exec(ctx context.Context, id string, x runtime.Exec) (int, error) {
	c := e.container(id)
	if c == nil {
		return 0, notFound("containers", id)
	}
	if len(x.Command) == 0 {
		return 0, startError("StartError", spec.ErrNoCommand)
	}
	code, err := e.exec(e.ns(ctx), c, x)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx) // whatever it was that ctx has cut off
		}
		return 0, fmt.Errorf("exec in container %q: %w", c.info.Name, err)
	}
	return code, nil
}

func (e *Engine) exec(ctx context.Context, c *container, x runtime.Exec) (int, error) {
	cont, err := e.client.LoadContainer(ctx, c.info.ID)
	if err != nil {
		return 0, err
	}
	made, err := cont.Spec(ctx)
	if err != nil {
		return 0, err
	}
	task, err := cont.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return 0, fmt.Errorf("it is not running: %w", notFound("containers", c.info.ID))
	}
	if err != nil {
		return 0, err
	}
	process := *made.Process
	process.Args, process.Terminal, process.Env = x.Command, x.TTY, spec.Terminal(process.Env, x.TTY)
	var last output.Last
	in := &closer{Reader: x.Stdin}
	p, err := task.Exec(ctx, newID()[:16], &process, cio.NewCreator(streams(x, in, &last, filepath.Join(e.fifoDir(c.info.ID), "exec"))...))
	if err != nil {
		return 0, err
	}
	undo, cancel := e.cleanup(ctx)
	defer cancel()
	defer func() { _, _ = p.Delete(undo, containerd.WithProcessKill) }()
	// Wait asks before the start, so that no exit is missed, and outlives ctx,
	// so that the kill is waited for.
	waiting, stop := context.WithCancel(e.ns(context.WithoutCancel(ctx)))
	defer stop()
	exit, err := p.Wait(waiting)
	if err != nil {
		return 0, err
	}
	if err := p.Start(ctx); err != nil {
		return 0, startError("StartError", spec.Explain(c.info.Name, &process, runcError(err)))
	}
	if !x.TTY {
		in.onEOF(func() { _ = p.CloseIO(waiting, containerd.WithStdinCloser) })
	}
	if x.Resize != nil {
		go resizing(waiting, x.Resize, p.Resize)
	}
	select {
	case status := <-exit:
		last.Wait(p.IO().Wait, p.IO().Cancel)
		code, _, err := status.Result()
		return int(code), err
	case <-ctx.Done():
		hangUp(undo, p, exit, x.Hangup)
		return 0, context.Cause(ctx)
	}
}

// streams are the FIFOs of an exec.
func streams(x runtime.Exec, in io.Reader, last *output.Last, dir string) []cio.Opt {
	var stdin io.Reader
	if x.Stdin != nil {
		stdin = in
	}
	if x.TTY {
		return []cio.Opt{cio.WithStreams(stdin, last.Through(x.Stdout), nil), cio.WithTerminal, cio.WithFIFODir(dir)}
	}
	return []cio.Opt{cio.WithStreams(stdin, last.Through(x.Stdout), last.Through(x.Stderr)), cio.WithFIFODir(dir)}
}

// resizing gives a terminal the sizes that come, until ctx is done.
func resizing(ctx context.Context, sizes <-chan api.TerminalSize, set func(ctx context.Context, w, h uint32) error) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			_ = set(ctx, uint32(s.Width), uint32(s.Height)) // it has just ended
		case <-ctx.Done():
			return
		}
	}
}

// hangUp ends a process whose client has gone.
func hangUp(ctx context.Context, p containerd.Process, exit <-chan containerd.ExitStatus, grace time.Duration) {
	if grace > 0 {
		_ = p.Kill(ctx, syscall.SIGHUP)
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-exit:
			return
		case <-t.C:
		case <-ctx.Done():
		}
	}
	_ = p.Kill(ctx, syscall.SIGKILL)
	select {
	case <-exit:
	case <-ctx.Done():
	}
}

// closer calls a function once its reader has come to an end.
type closer struct {
	io.Reader
	mu   sync.Mutex
	eof  bool
	call func()
}

func (c *closer) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.eof = true
		if c.call != nil {
			c.call()
		}
	}
	return n, err
}

func (c *closer) onEOF(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.call = f
	if c.eof {
		f()
	}
}
