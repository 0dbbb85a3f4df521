package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/containerd/containerd/api/services/tasks/v1"

	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

var (
	_ runtime.Attacher = (*Engine)(nil)
	_ runtime.Dialer   = (*Engine)(nil)
)

// errDetached is the end of an attachment whose input has ended.
var errDetached = errors.New("its input has ended")

// Attach implements runtime.Attacher.
func (e *Engine) Attach(ctx context.Context, id string, a runtime.Attach) error {
	c := e.container(id)
	if c == nil || c.starting() {
		return notFound("containers", id)
	}
	e.mu.Lock()
	running := c.info.State == runtime.Running
	e.mu.Unlock()
	if !running || c.logs == nil {
		return fmt.Errorf("it is not running: %w", notFound("containers", id))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if a.Stdin != nil && c.logs.Stdin != "" {
		in, err := c.logs.OpenInput()
		if err == nil { // otherwise it was closed: nothing can be typed
			defer in.Close() // a write to it is not waited for
			go func() {      // ends with what is typed, see runtime.Attach
				_, _ = io.Copy(in, a.Stdin)
				in.Close()
				if !a.Once || a.TTY {
					cancel(errDetached)
					return
				}
				e.closeInput(ctx, id)
			}()
		}
	}
	if a.TTY && a.Resize != nil {
		go resizing(ctx, a.Resize, func(ctx context.Context, w, h uint32) error {
			_, err := e.client.TaskService().ResizePty(e.ns(ctx), &tasks.ResizePtyRequest{ContainerID: id, Width: w, Height: h})
			return err
		})
	}
	err := c.logs.Attach(ctx, a.Stdout, a.Stderr)
	if errors.Is(err, errDetached) {
		return nil
	}
	return err
}

// closeInput ends a container's standard input: the shim holds it open until
// it is told.
func (e *Engine) closeInput(ctx context.Context, id string) {
	ctx, cancel := e.cleanup(e.ns(ctx))
	defer cancel()
	_, _ = e.client.TaskService().CloseIO(ctx, &tasks.CloseIORequest{ContainerID: id, Stdin: true}) // one that has ended has none
}

// DialIn implements runtime.Dialer.
func (e *Engine) DialIn(ctx context.Context, id, address string) (net.Conn, error) {
	sb := e.sandbox(id)
	if sb == nil {
		return nil, notFound("sandboxes", id)
	}
	if sb.spec.HostNetwork {
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	e.mu.Lock()
	pid := sb.info.Pid
	e.mu.Unlock()
	if pid == 0 {
		return nil, notFound("sandboxes", id)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("the sandbox's network: %w", err)
	}
	defer ns.Close()
	return network.Dial(ctx, ns, address)
}
