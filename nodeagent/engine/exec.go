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
	process.Args, process.Terminal = x.Command, false

	in := &closer{Reader: x.Stdin}
	streams := cio.WithStreams(nil, orDiscard(x.Stdout), orDiscard(x.Stderr))
	if x.Stdin != nil {
		streams = cio.WithStreams(in, orDiscard(x.Stdout), orDiscard(x.Stderr))
	}
	dir := filepath.Join(e.fifoDir(c.info.ID), "exec")
	p, err := task.Exec(ctx, newID()[:16], &process, cio.NewCreator(streams, cio.WithFIFODir(dir)))
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
	in.onEOF(func() { _ = p.CloseIO(waiting, containerd.WithStdinCloser) })
	select {
	case status := <-exit:
		awaitIO(p)
		code, _, err := status.Result()
		return int(code), err
	case <-ctx.Done():
		_ = p.Kill(undo, syscall.SIGKILL)
		select {
		case <-exit:
		case <-undo.Done():
		}
		return 0, context.Cause(ctx)
	}
}

// awaitIO waits for the last output, for 2 s at most: a child of the process
// may hold it open.
func awaitIO(p containerd.Process) {
	t := time.AfterFunc(2*time.Second, p.IO().Cancel)
	defer t.Stop()
	p.IO().Wait()
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

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
