// Package fake is a container engine in memory, for tests of the pod life
// cycle: images are scripts that say how a container of them behaves. It runs
// on the clock of the caller's synctest bubble.
package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/podsnap/podsnap/nodeagent/logfile"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// Script is how an image and its containers behave. The zero value is there
// without a pull, listens at once on every port and runs until it gets a SIGTERM.
// Each container writes one line to its log: "started <name>/<attempt>".
type Script struct {
	PullDelay  time.Duration // of every Ensure
	PullErr    error         // the image can't be had
	PullAs     string        // the user who alone gets it; "" is everybody
	StartDelay time.Duration
	StartErr   error         // a container can't be started
	Runs       []Run         // the n-th instance of a container; the last one repeats; none runs until signalled
	ReadyAfter time.Duration // from the start until it accepts connections; negative is never
	TermDelay  time.Duration // from SIGTERM to the exit
	TermCode   int           // exit code after SIGTERM
	IgnoreTERM bool
	NoFreezer  bool // containers cannot be frozen
}

// Run is one instance of a container that ends by itself.
type Run struct {
	For  time.Duration // negative: runs until signalled
	Code int
	OOM  bool
}

// Runtime implements runtime.Runtime and runtime.Stats, and Images its images. It
// outlives agents, as an engine does.
type Runtime struct {
	mu         sync.Mutex
	scripts    map[string]Script
	faults     map[string]error
	sandboxes  map[string]*sandbox
	containers map[string]*container
	subs       map[chan runtime.Exit]bool
	calls      []string
	serial     int
}

var (
	_ runtime.Runtime = (*Runtime)(nil)
	_ runtime.Images  = images{}
	_ runtime.Stats   = (*Runtime)(nil)
	_ runtime.Freezer = (*Runtime)(nil)

	_ runtime.Attacher = (*Runtime)(nil)
	_ runtime.Dialer   = (*Runtime)(nil)
)

type sandbox struct {
	runtime.Sandbox
	order []string
}

type container struct {
	runtime.Container
	script Script
	spec   runtime.ContainerSpec
	end    *time.Timer
	frozen bool
	term   bool // a SIGTERM waits for the thaw
}

// New makes an engine with nothing in it.
func New() *Runtime {
	return &Runtime{
		scripts: map[string]Script{}, faults: map[string]error{},
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{},
		subs: map[chan runtime.Exit]bool{},
	}
}

// Script says how an image behaves from now on.
func (r *Runtime) Script(image string, s Script) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scripts[image] = s
}

// Fail makes every call of a method (by its name) answer with err; nil ends it.
func (r *Runtime) Fail(method string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[method] = err
}

// Calls lists what was asked for so far, as "StartContainer main/0".
func (r *Runtime) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// Spec is what a running or exited container was started with.
func (r *Runtime) Spec(id string) runtime.ContainerSpec {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return c.spec
	}
	return runtime.ContainerSpec{}
}

// Kill ends a container as an outsider would, or a sandbox's pause process.
func (r *Runtime) Kill(id string, run Run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[id]; s != nil {
		s.Pid = 0
		r.publish(runtime.Exit{Sandbox: id, ExitCode: 137, At: time.Now()})
		return
	}
	if c := r.containers[id]; c != nil {
		r.exit(c, run.Code, run.OOM)
	}
}

func (r *Runtime) begin(ctx context.Context, method, what string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, method+" "+what)
	return r.faults[method]
}

// StartSandbox implements runtime.Runtime.
func (r *Runtime) StartSandbox(ctx context.Context, s runtime.SandboxSpec) (runtime.Sandbox, error) {
	if err := r.begin(ctx, "StartSandbox", s.Name); err != nil {
		return runtime.Sandbox{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serial++
	sb := &sandbox{Sandbox: runtime.Sandbox{
		ID: fmt.Sprintf("sb-%d", r.serial), UID: s.UID, Namespace: s.Namespace, Name: s.Name,
		IP: fmt.Sprintf("10.42.%d.%d", r.serial/250, r.serial%250+1), Pid: 1000 + r.serial,
		CreatedAt: time.Now(), Labels: maps.Clone(s.Labels),
	}}
	if s.HostNetwork || s.NoNetwork {
		sb.IP = ""
	}
	r.sandboxes[sb.ID] = sb
	return sb.Sandbox, nil
}

// RemoveSandbox implements runtime.Runtime.
func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	if err := r.begin(ctx, "RemoveSandbox", id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil
	}
	for _, cid := range slices.Clone(s.order) {
		r.remove(r.containers[cid])
	}
	delete(r.sandboxes, id)
	return nil
}

// StartContainer implements runtime.Runtime.
func (r *Runtime) StartContainer(ctx context.Context, spec runtime.ContainerSpec) (runtime.Container, error) {
	if err := r.begin(ctx, "StartContainer", fmt.Sprintf("%s/%d", spec.Name, spec.Attempt)); err != nil {
		return runtime.Container{}, err
	}
	r.mu.Lock()
	script := r.scripts[spec.Image]
	r.mu.Unlock()
	if err := wait(ctx, script.StartDelay); err != nil {
		return runtime.Container{}, err
	}
	if script.StartErr != nil {
		return runtime.Container{}, script.StartErr
	}
	if err := say(spec); err != nil {
		return runtime.Container{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[spec.Sandbox]
	if s == nil || s.Pid == 0 {
		return runtime.Container{}, notFound("sandbox", spec.Sandbox)
	}
	r.serial++
	c := &container{script: script, spec: spec, Container: runtime.Container{
		ID: fmt.Sprintf("c-%d", r.serial), Sandbox: spec.Sandbox, Name: spec.Name, Attempt: spec.Attempt,
		Image: spec.Image, ImageID: "sha256:" + spec.Image, State: runtime.Running, Pid: 1000 + r.serial,
		StartedAt: time.Now(), LogPath: spec.LogPath, Labels: maps.Clone(spec.Labels),
	}}
	r.containers[c.ID] = c
	s.order = append(s.order, c.ID)
	if n := len(script.Runs); n > 0 {
		if run := script.Runs[min(spec.Attempt, n-1)]; run.For >= 0 {
			r.exitAfter(c, run.For, run.Code, run.OOM)
		}
	}
	return c.Container, nil
}

// say writes the one line that a container says.
func say(spec runtime.ContainerSpec) error {
	if spec.LogPath == "" {
		return nil
	}
	w, err := logfile.NewWriter(spec.LogPath, 0, 0)
	if err != nil {
		return err
	}
	defer w.Close()
	text := fmt.Appendf(nil, "started %s/%d", spec.Name, spec.Attempt)
	return w.Write(logfile.Line{Time: time.Now(), Stream: logfile.Stdout, Text: text})
}

// Signal implements runtime.Runtime.
func (r *Runtime) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	r.mu.Lock()
	c := r.containers[id]
	r.mu.Unlock()
	name := id
	if c != nil {
		name = c.Name
	}
	if err := r.begin(ctx, "Signal", fmt.Sprintf("%s %d", name, sig)); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case c == nil:
		return notFound("container", id)
	case sig == syscall.SIGKILL:
		r.exit(c, 137, false)
	case c.frozen:
		c.term = true
	case !c.script.IgnoreTERM:
		r.exitAfter(c, c.script.TermDelay, c.script.TermCode, false)
	}
	return nil
}

// RemoveContainer implements runtime.Runtime.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	if err := r.begin(ctx, "RemoveContainer", id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		r.remove(c)
	}
	return nil
}

// List implements runtime.Runtime.
func (r *Runtime) List(ctx context.Context) ([]runtime.Sandbox, error) {
	if err := r.begin(ctx, "List", ""); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []runtime.Sandbox
	for _, id := range slices.Sorted(maps.Keys(r.sandboxes)) {
		s := r.sandboxes[id]
		sb := s.Sandbox
		for _, cid := range s.order {
			sb.Containers = append(sb.Containers, r.containers[cid].Container)
		}
		out = append(out, sb)
	}
	return out, nil
}

// Events implements runtime.Runtime.
func (r *Runtime) Events(ctx context.Context) <-chan runtime.Exit {
	ch := make(chan runtime.Exit, 256)
	r.mu.Lock()
	r.subs[ch] = true
	r.mu.Unlock()
	context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.subs, ch)
		close(ch)
	})
	return ch
}

// Attach implements runtime.Attacher: the container writes what it reads until
// that ends, or until it does.
func (r *Runtime) Attach(ctx context.Context, id string, a runtime.Attach) error {
	if err := r.begin(ctx, "Attach", fmt.Sprintf("once=%v tty=%v", a.Once, a.TTY)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := errors.New("it has ended")
	exits := r.Events(ctx) // before the look, so that none is missed
	r.mu.Lock()
	c := r.containers[id]
	running := c != nil && c.State == runtime.Running
	r.mu.Unlock()
	if !running {
		return notFound("container", id)
	}
	if a.Stdin != nil && a.Stdout != nil {
		go func() { // ends with its reader
			_, err := io.Copy(a.Stdout, a.Stdin)
			cancel(errors.Join(ended, err))
		}()
	}
	for {
		select {
		case x := <-exits:
			if x.Container == id {
				return nil
			}
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, ended) {
				return err
			}
			return nil
		}
	}
}

// DialIn implements runtime.Dialer. A sandbox has the machine's network.
func (r *Runtime) DialIn(ctx context.Context, sandbox, address string) (net.Conn, error) {
	if err := r.begin(ctx, "DialIn", address); err != nil {
		return nil, err
	}
	r.mu.Lock()
	s := r.sandboxes[sandbox]
	r.mu.Unlock()
	if s == nil {
		return nil, notFound("sandbox", sandbox)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

// Exec implements runtime.Runtime. The command "exit" ends with the code that
// its first argument's length is; every other one prints itself and ends with 0.
func (r *Runtime) Exec(ctx context.Context, id string, e runtime.Exec) (int, error) {
	if err := r.begin(ctx, "Exec", fmt.Sprint(e.Command)); err != nil {
		return 0, err
	}
	r.mu.Lock()
	c := r.containers[id]
	r.mu.Unlock()
	if c == nil || c.State != runtime.Running {
		return 0, notFound("container", id)
	}
	if len(e.Command) > 1 && e.Command[0] == "exit" {
		return len(e.Command[1]), nil
	}
	if e.Stdout != nil {
		fmt.Fprintln(e.Stdout, e.Command)
	}
	return 0, nil
}

// Stats implements runtime.Stats: a CPU second for each second of life, 1 MiB.
func (r *Runtime) Stats(_ context.Context, id string) (float64, uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return 0, 0, notFound("container", id)
	}
	return time.Since(c.StartedAt).Seconds(), 1 << 20, nil
}

func (r *Runtime) exitAfter(c *container, d time.Duration, code int, oom bool) {
	if c.end != nil {
		c.end.Stop()
	}
	c.end = time.AfterFunc(d, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.exit(c, code, oom)
	})
}

// exit ends a container; the caller holds the lock.
func (r *Runtime) exit(c *container, code int, oom bool) {
	if c.State == runtime.Exited {
		return
	}
	if c.end != nil {
		c.end.Stop()
	}
	c.State, c.Pid, c.ExitCode, c.OOMKilled, c.FinishedAt = runtime.Exited, 0, code, oom, time.Now()
	r.publish(runtime.Exit{Sandbox: c.Sandbox, Container: c.ID, ExitCode: code, OOMKilled: oom, At: c.FinishedAt})
}

func (r *Runtime) remove(c *container) {
	r.exit(c, 137, false)
	delete(r.containers, c.ID)
	if s := r.sandboxes[c.Sandbox]; s != nil {
		s.order = slices.DeleteFunc(s.order, func(id string) bool { return id == c.ID })
	}
}

func (r *Runtime) publish(e runtime.Exit) {
	for ch := range r.subs {
		select {
		case ch <- e:
		default: // a reader this slow is a bug of the test
			panic("fake: exits are not read")
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func notFound(kind, id string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, id)
}
