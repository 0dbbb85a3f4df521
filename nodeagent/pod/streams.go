package pod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// hangup is how long a command has between SIGHUP and SIGKILL when its client
// has gone.
const hangup = 3 * time.Second

// Exec runs a command in a container; "" is the first one.
func (w *Worker) Exec(ctx context.Context, o api.ExecOptions) (int, error) {
	id, err := w.instance(o.Container)
	if err != nil {
		return 0, err
	}
	release, err := w.hold(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	code, err := w.c.Runtime.Exec(ctx, id, runtime.Exec{
		Command: o.Command, TTY: o.TTY, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Resize: o.Resize, Hangup: hangup,
	})
	if _, ok := errors.AsType[*runtime.StartError](err); ok {
		err = apierrors.NewBadRequest(err.Error()) // of who has asked for it
	}
	return code, err
}

// Attach attaches to a container's first process; "" is the first container's.
func (w *Worker) Attach(ctx context.Context, o api.AttachOptions) error {
	id, err := w.instance(o.Container)
	if err != nil {
		return err
	}
	r, ok := w.c.Runtime.(runtime.Attacher)
	if !ok {
		return apierrors.NewMethodNotSupported(api.Pods.GR(), "attach")
	}
	release, err := w.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	p := w.Pod()
	if o.Container == "" {
		o.Container = p.Spec.Containers[0].Name
	}
	c := find(p, o.Container)
	a := runtime.Attach{TTY: c.TTY, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Resize: o.Resize, Once: c.StdinOnce}
	return r.Attach(ctx, id, a)
}

// Forward connects to a port of the pod: on its loopback device, where most of
// what is not for others listens, or at its address.
func (w *Worker) Forward(ctx context.Context, port uint16) (api.Conn, error) {
	r, ok := w.c.Runtime.(runtime.Dialer)
	if !ok {
		return nil, apierrors.NewMethodNotSupported(api.Pods.GR(), "portforward")
	}
	sandbox, err := w.sandbox(ctx)
	if err != nil {
		return nil, err
	}
	release, err := w.hold(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := w.dial(ctx, r, sandbox, strconv.Itoa(int(port)))
	if err != nil {
		release()
		return nil, apierrors.NewServiceUnavailable(err.Error())
	}
	c := &forwarded{TCPConn: conn}
	end := context.AfterFunc(ctx, func() { conn.Close() })
	c.release = func() { end(); release() }
	return c, nil
}

func (w *Worker) dial(ctx context.Context, r runtime.Dialer, sandbox, port string) (*net.TCPConn, error) {
	var first error
	for _, host := range append([]string{"127.0.0.1", "::1"}, addresses(w.Pod())...) {
		conn, err := r.DialIn(ctx, sandbox, net.JoinHostPort(host, port))
		if err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				return tcp, nil
			}
			conn.Close()
			err = fmt.Errorf("dial %s: it is a %T", host, conn)
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func addresses(p *corev1.Pod) []string {
	var out []string
	for _, ip := range p.Status.PodIPs {
		out = append(out, ip.IP)
	}
	return out
}

// forwarded is a connection to a pod, which runs as long as it is open.
type forwarded struct {
	*net.TCPConn
	release func()
	closed  sync.Once
}

// Close implements io.Closer.
func (c *forwarded) Close() error {
	c.closed.Do(c.release)
	return c.TCPConn.Close()
}

// sandbox is the id of the pod's sandbox.
func (w *Worker) sandbox(ctx context.Context) (string, error) {
	told := make(chan string, 1)
	w.post(func() {
		id := w.s.Sandbox.ID
		if w.s.Sandbox.Dead {
			id = ""
		}
		told <- id
	})
	select {
	case id := <-told:
		if id == "" {
			return "", apierrors.NewBadRequest(fmt.Sprintf("pod %q does not run", w.Pod().Name))
		}
		return id, nil
	case <-w.over:
		return "", apierrors.NewNotFound(api.Pods.GR(), w.Pod().Name)
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// instance is the id of the instance of a container that runs; "" is the first
// container.
func (w *Worker) instance(container string) (string, error) {
	p := w.Pod()
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, cs := range list {
			if container != "" && cs.Name != container {
				continue
			}
			if cs.State.Running == nil {
				if p.DeletionTimestamp != nil { // nor will it again: the pod is as good as gone
					return "", apierrors.NewNotFound(api.Pods.GR(), p.Name)
				}
				return "", apierrors.NewBadRequest(fmt.Sprintf("container %q of pod %q does not run", cs.Name, p.Name))
			}
			return strings.TrimPrefix(cs.ContainerID, "containerd://"), nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %q is not valid for pod %q", container, p.Name))
}
