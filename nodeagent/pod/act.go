package pod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podsnap/podsnap/internal/pause"
	"github.com/podsnap/podsnap/nodeagent/probe"
	"github.com/podsnap/podsnap/nodeagent/pullsecret"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/volume"
)

// What the engine is asked for takes so long at most; stopping has its deadline
// on top.
const (
	actTimeout  = 2 * time.Minute
	pullTimeout = time.Hour
)

// youth is the age below which a container may not have installed its handler
// for SIGTERM. It is the first process of its namespace, so the kernel drops
// the signal then, and the pod would wait for its whole grace period.
const youth = time.Second

// begin does an action in the background; its end is a message to the worker.
func (w *Worker) begin(ctx context.Context, a Action, now time.Time) {
	w.s.Begin(a)
	w.log.DebugContext(ctx, "begin", slog.String("action", a.String()))
	if a.Kind == StopContainer && w.s.Stop != nil {
		w.event(corev1.EventTypeNormal, "Killing", "Stopping container "+a.Container)
	}
	if a.Kind == StopContainer && w.young(a, now) {
		w.ops.Go(func() {
			if pause.For(ctx, youth) {
				w.warn("signal again", w.c.Runtime.Signal(ctx, a.ID, syscall.SIGTERM))
			}
		})
	}
	do := w.doing(a, w.s.Pod, w.s.Sandbox.Sandbox)
	if w.s.Frozen && a.thawNow() {
		do = w.wake(do)
	}
	limit := actTimeout + a.deadline(now).Sub(now)
	if a.Kind == Pull {
		limit = pullTimeout
	}
	w.ops.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		end := do(ctx)
		w.post(func() { //nolint:contextcheck // as in the agent
			end()
			w.late()
		})
	})
}

// young tells whether a container that is being stopped has only just begun.
// One with hooks or a signal of its own gets just what it asks for.
func (w *Worker) young(a Action, now time.Time) bool {
	c := w.s.Containers[a.Container]
	spec := find(w.s.Pod, a.Container)
	return c != nil && c.Current != nil && spec != nil && spec.Lifecycle == nil && now.Sub(c.Current.StartedAt) < youth
}

// doing is what an action does: away from the worker's state, and then, as a
// message, what it has come to.
func (w *Worker) doing(a Action, p *corev1.Pod, sb runtime.Sandbox) func(context.Context) func() {
	switch a.Kind {
	case PrepareVolumes:
		return func(ctx context.Context) func() { return w.prepare(ctx, a, p) }
	case StartSandbox:
		return func(ctx context.Context) func() { return w.startSandbox(ctx, a, p) }
	case RemoveSandbox:
		return func(ctx context.Context) func() { return w.removeSandbox(ctx, a) }
	case Pull:
		return func(ctx context.Context) func() { return w.pull(ctx, a, p) }
	case StartContainer:
		return func(ctx context.Context) func() { return w.startContainer(ctx, a, p, sb) }
	case StopContainer:
		return func(ctx context.Context) func() { return w.stopContainer(ctx, a, p, sb.IP) }
	case KillContainer:
		return func(ctx context.Context) func() {
			w.warn("kill", w.c.Runtime.Signal(ctx, a.ID, syscall.SIGKILL))
			return func() { w.s.Acted(a) }
		}
	case RemoveContainer:
		return func(ctx context.Context) func() {
			w.warn("remove container", w.c.Runtime.RemoveContainer(ctx, a.ID))
			return func() { w.s.Acted(a) }
		}
	case RemoveVolumes:
		return w.removeVolumes(a, p)
	case Finish:
		return w.finish(a)
	}
	return func(context.Context) func() { return func() { w.s.Acted(a) } }
}

func (a Action) deadline(now time.Time) time.Time {
	if a.Deadline.IsZero() {
		return now
	}
	return a.Deadline
}

func (w *Worker) prepare(ctx context.Context, a Action, p *corev1.Pod) func() {
	err := w.c.Volumes.Setup(ctx, p)
	f := fault(err, "CreateContainerConfigError")
	return func() {
		if f != nil {
			w.event(corev1.EventTypeWarning, "FailedMount", "MountVolume.SetUp failed: "+f.Message)
		}
		w.s.VolumesPrepared(a, f, time.Now())
	}
}

func (w *Worker) startSandbox(ctx context.Context, a Action, p *corev1.Pod) func() {
	begin := time.Now()
	var sb runtime.Sandbox
	hostname, err := w.c.Volumes.Hostname(p)
	if err == nil {
		sb, err = w.c.Runtime.StartSandbox(ctx, sandboxSpec(p, hostname, w.c.Pids))
	}
	f := fault(err, "FailedCreatePodSandBox")
	w.stage("sandbox", begin, err)
	return func() {
		if f != nil {
			w.event(corev1.EventTypeWarning, f.Reason, "Failed to create pod sandbox: "+f.Message)
		} else if w.c.Sandbox != nil {
			w.c.Sandbox(w, sb.ID, true)
		}
		w.s.SandboxStarted(a, sb, f, time.Now())
	}
}

func (w *Worker) removeSandbox(ctx context.Context, a Action) func() {
	err := w.c.Runtime.RemoveSandbox(ctx, a.ID)
	w.warn("remove sandbox", err)
	return func() {
		if err == nil && w.c.Sandbox != nil {
			w.c.Sandbox(w, a.ID, false)
		}
		w.s.SandboxRemoved(a, fault(err, "FailedKillPod"), time.Now())
	}
}

func (w *Worker) pull(ctx context.Context, a Action, p *corev1.Pod) func() {
	c := find(p, a.Container)
	begin := time.Now()
	logins, unusable := w.logins(ctx, p)
	img, err := w.c.Images.Ensure(ctx, c.Image, pullPolicy(c), logins...)
	w.stage("image", begin, err)
	f := fault(err, "ErrImagePull")
	var pe *runtime.PullError
	if errors.As(err, &pe) && pe.Reason != "" {
		f.Reason = pe.Reason
	}
	took := time.Since(begin)
	return func() {
		for _, why := range unusable {
			w.event(corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", why)
		}
		switch {
		case f != nil && ctx.Err() == nil:
			w.event(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %s", c.Image, f.Message))
		case f == nil:
			w.event(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q is there after %s", c.Image, took.Round(time.Millisecond)))
		}
		w.s.Pulled(a, img.ID, f, time.Now())
	}
}

// logins are those that the pod's Secrets hold, and what is to be said of Secrets that
// are not there or hold none: the image may be had without them.
func (w *Worker) logins(ctx context.Context, p *corev1.Pod) (out []runtime.Login, unusable []string) {
	for _, ref := range p.Spec.ImagePullSecrets {
		s, err := w.c.Volumes.Secret(ctx, p, ref.Name)
		var some []runtime.Login
		if err == nil {
			some, err = pullsecret.Logins(s)
		}
		if err != nil {
			unusable = append(unusable, fmt.Sprintf("Unable to use image pull secret %q: %v; attempting to pull the image may not succeed.", ref.Name, err))
		}
		out = append(out, some...)
	}
	return out, unusable
}

func (w *Worker) startContainer(ctx context.Context, a Action, p *corev1.Pod, sb runtime.Sandbox) func() {
	begin := time.Now()
	spec, err := w.containerSpec(ctx, a, p, sb)
	var it runtime.Container
	if err == nil && w.c.Guard != nil && !alone(p) {
		err = w.c.Guard(ctx, p, sb.IPs())
	}
	if err == nil {
		it, err = w.c.Runtime.StartContainer(ctx, spec)
	}
	w.stage("container", begin, err)
	f := fault(err, "CreateContainerError")
	var ce *volume.ConfigError
	var se *runtime.StartError
	switch {
	case errors.As(err, &ce):
		f.Reason = "CreateContainerConfigError"
	case errors.As(err, &se):
		f.Reason = se.Reason
		if se.Reason == "RunContainerError" || se.Reason == "StartError" {
			f.Reason = cannotRunReason
		}
	}
	var hook error
	if h := find(p, a.Container).Lifecycle; f == nil && h != nil && h.PostStart != nil {
		hook = w.hook(ctx, find(p, a.Container), h.PostStart, it.ID, sb.IP)
	}
	return func() {
		if f != nil {
			w.event(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Container %s could not be started: %s", a.Container, f.Message))
		} else {
			w.event(corev1.EventTypeNormal, "Started", "Started container "+a.Container)
		}
		w.s.ContainerStarted(a, it, f, time.Now())
		if hook != nil {
			w.event(corev1.EventTypeWarning, "FailedPostStartHook", hook.Error())
			w.s.Containers[a.Container].Unhealthy, w.s.Containers[a.Container].Grace = "failed its postStart hook", nil
		}
	}
}

// containerSpec puts together what the engine needs. Volumes are brought up to
// date, so that a container that starts anew sees the objects of now.
func (w *Worker) containerSpec(ctx context.Context, a Action, p *corev1.Pod, sb runtime.Sandbox) (runtime.ContainerSpec, error) {
	c := find(p, a.Container)
	host := runtime.Sandbox{IP: w.c.HostIP, IP6: w.c.HostIP6}
	ips := sb.IPs()
	if p.Spec.HostNetwork {
		ips = host.IPs()
	}
	if a.Attempt > 0 {
		if err := w.c.Volumes.Setup(ctx, p); err != nil {
			return runtime.ContainerSpec{}, err
		}
	}
	if err := w.c.Volumes.Files(p, ips, sb.Dir); err != nil {
		return runtime.ContainerSpec{}, err
	}
	env, err := w.c.Volumes.Env(ctx, p, c, volume.Addresses{Pod: ips, Host: host.IPs()})
	if err != nil {
		return runtime.ContainerSpec{}, err
	}
	mounts, err := w.c.Volumes.Mounts(p, c, env, sb.Dir)
	if err != nil {
		return runtime.ContainerSpec{}, err
	}
	if !isFunction(p) {
		last, ok, err := w.c.Volumes.Message(p, c, a.Attempt)
		if err != nil {
			return runtime.ContainerSpec{}, err
		}
		if ok {
			mounts = append(mounts, last)
		}
	}
	shares, err := target(w.Pod(), c.Name)
	if err != nil {
		return runtime.ContainerSpec{}, err
	}
	path := LogPath(w.c.LogDir, p, c.Name, a.Attempt)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return runtime.ContainerSpec{}, err
	}
	forget(w.c.LogDir, p, c.Name, a.Attempt-2)
	return runtime.ContainerSpec{
		Sandbox: sb.ID, Name: c.Name, Attempt: a.Attempt, Image: c.Image,
		Command: volume.Expand(c.Command, env), Args: volume.Expand(c.Args, env), Env: env, WorkingDir: c.WorkingDir,
		Mounts: mounts, Resources: resources(c, w.c.Pids), Security: security(p, c),
		LogPath: path, Labels: labels(p, c.Name), Stdin: c.Stdin, TTY: c.TTY, Target: shares,
	}, nil
}

// stopContainer runs the preStop hook and sends SIGTERM; it returns when that
// is sent, at the deadline at the latest.
func (w *Worker) stopContainer(ctx context.Context, a Action, p *corev1.Pod, ip string) func() {
	c := find(p, a.Container)
	hookCtx, cancel := context.WithDeadline(ctx, a.Deadline)
	defer cancel()
	var hook error
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		hook = w.hook(hookCtx, c, c.Lifecycle.PreStop, a.ID, ip)
	}
	sig := syscall.SIGTERM
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		sig = signalOf(*c.Lifecycle.StopSignal)
	}
	w.warn("signal", w.c.Runtime.Signal(ctx, a.ID, sig))
	return func() {
		if hook != nil {
			w.event(corev1.EventTypeWarning, "FailedPreStopHook", hook.Error())
		}
		w.s.Acted(a)
	}
}

func signalOf(s corev1.Signal) syscall.Signal {
	for n, sig := range map[corev1.Signal]syscall.Signal{
		corev1.SIGINT: syscall.SIGINT, corev1.SIGQUIT: syscall.SIGQUIT, corev1.SIGHUP: syscall.SIGHUP,
		corev1.SIGUSR1: syscall.SIGUSR1, corev1.SIGUSR2: syscall.SIGUSR2, corev1.SIGKILL: syscall.SIGKILL,
		corev1.SIGWINCH: syscall.SIGWINCH,
	} {
		if n == s {
			return sig
		}
	}
	return syscall.SIGTERM
}

// hook runs a life cycle hook of a container.
func (w *Worker) hook(ctx context.Context, c *corev1.Container, h *corev1.LifecycleHandler, id, ip string) error {
	switch {
	case h.Sleep != nil:
		t := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		return nil
	case h.Exec == nil && h.HTTPGet == nil && h.TCPSocket == nil:
		return nil
	}
	spec := &corev1.Probe{TimeoutSeconds: 3600, ProbeHandler: corev1.ProbeHandler{Exec: h.Exec, HTTPGet: h.HTTPGet, TCPSocket: h.TCPSocket}}
	return w.c.Prober.Check(ctx, spec, w.target(c, id, ip))
}

// target is where a container's probes and hooks go.
func (w *Worker) target(c *corev1.Container, id, ip string) probe.Target {
	t := probe.Target{IP: ip, Ports: map[string]int32{}}
	if ip == "" {
		t.IP = w.c.HostIP // the host's network
	}
	for _, p := range c.Ports {
		t.Ports[p.Name] = p.ContainerPort
	}
	if l, ok := w.c.Runtime.(runtime.Listener); ok && ip != "" {
		t.Listening = func(ctx context.Context, port int32) error { return l.Listening(ctx, id, port) }
	}
	t.Exec = func(ctx context.Context, command []string) (int, string, error) {
		out := &head{most: 10 << 10}
		code, err := w.c.Runtime.Exec(ctx, id, runtime.Exec{Command: command, Stdout: out, Stderr: out})
		return code, out.String(), err
	}
	return t
}

// head keeps the start of what is written.
type head struct {
	bytes.Buffer
	most int
}

func (h *head) Write(b []byte) (int, error) {
	if room := h.most - h.Len(); room > 0 {
		h.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

// removeVolumes removes what the pod has on disk, or only unmounts it when the
// pod is to come back.
func (w *Worker) removeVolumes(a Action, p *corev1.Pod) func(context.Context) func() {
	keep := w.s.Stop != nil && w.s.Stop.Mode == Keep
	return func(context.Context) func() {
		var err error
		if keep {
			err = w.c.Volumes.Release(p.UID)
		} else {
			err = w.c.Volumes.Remove(p.UID)
		}
		w.warn("remove volumes", err)
		return func() { w.s.VolumesRemoved(a, fault(err, "FailedKillPod"), time.Now()) }
	}
}

func fault(err error, reason string) *Fault {
	if err == nil {
		return nil
	}
	return &Fault{Reason: reason, Message: err.Error()}
}

func (w *Worker) warn(what string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) && !apierrors.IsNotFound(err) {
		w.log.Warn("pod", slog.String("what", what), slog.Any("error", err))
	}
}

func (w *Worker) stage(name string, begin time.Time, err error) {
	if w.c.Stage != nil {
		w.c.Stage(name, time.Since(begin), err)
	}
}

func (w *Worker) event(kind, reason, message string) {
	if w.c.Recorder != nil {
		w.c.Recorder.Event(w.s.Pod, kind, reason, message)
	}
}
