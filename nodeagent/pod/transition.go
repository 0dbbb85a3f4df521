package pod

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/nodeagent/probe"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// steadyRun is how long an instance has to run for its end not to count as a
// crash soon after the start.
const steadyRun = 10 * time.Minute

// Begin notes that an action is under way.
func (s *State) Begin(a Action) {
	s.Busy[a.Key()] = true
	c := s.Containers[a.Container]
	if a.Kind == StopContainer {
		c.Stopping, c.Deadline = true, a.Deadline
	}
	if a.Kind == KillContainer {
		c.Killed = true
	}
	if a.Kind == RemoveContainer {
		s.Garbage = slices.DeleteFunc(s.Garbage, func(id string) bool { return id == a.ID })
	}
}

// End of an action that has nothing to tell but its error.
func (s *State) finish(a Action) { delete(s.Busy, a.Key()) }

// VolumesPrepared is the end of PrepareVolumes.
func (s *State) VolumesPrepared(a Action, f *Fault, now time.Time) {
	s.finish(a)
	s.Volumes.Ready = f == nil
	s.Volumes.Fault.set(f, now, configBackoff)
}

// VolumesRemoved is the end of RemoveVolumes.
func (s *State) VolumesRemoved(a Action, f *Fault, now time.Time) {
	s.finish(a)
	s.Volumes.Gone = f == nil
	s.Volumes.Ready = false
	s.Volumes.Fault.set(f, now, configBackoff)
}

// SandboxStarted is the end of StartSandbox.
func (s *State) SandboxStarted(a Action, sb runtime.Sandbox, f *Fault, now time.Time) {
	s.finish(a)
	s.Sandbox.Fault.set(f, now, configBackoff)
	if f == nil {
		s.Sandbox = Sandbox{Sandbox: sb}
	}
}

// SandboxDied is the end of the pause process.
func (s *State) SandboxDied(id string) {
	if s.Sandbox.ID == id {
		s.Sandbox.Dead = true
	}
}

// SandboxRemoved is the end of RemoveSandbox: what ran in it was killed.
func (s *State) SandboxRemoved(a Action, f *Fault, now time.Time) {
	s.finish(a)
	if f != nil {
		s.Sandbox.Fault.set(f, now, configBackoff)
		return
	}
	for _, c := range s.Containers {
		if c.running() {
			s.Exited(c.Current.ID, runtime.Exit{ExitCode: 137, At: now})
		}
	}
	s.Sandbox = Sandbox{}
	s.Garbage = nil
}

// Pulled is the end of Pull.
func (s *State) Pulled(a Action, id string, f *Fault, now time.Time) {
	s.finish(a)
	c := s.Containers[a.Container]
	c.Pull.set(f, now, s.backoff())
	c.Pulled = f == nil
	if f == nil {
		c.ImageID = id
	}
}

// ContainerStarted is the end of StartContainer. A fault with the reason
// ContainerCannotRun counts as an instance that ended at once.
func (s *State) ContainerStarted(a Action, it runtime.Container, f *Fault, now time.Time) {
	s.finish(a)
	c := s.Containers[a.Container]
	cannotRun := f != nil && f.Reason == cannotRunReason
	if f != nil && !cannotRun {
		c.Start.set(f, now, configBackoff)
		return
	}
	if c.Last != nil && c.Last.ID != "" {
		s.Garbage = append(s.Garbage, c.Last.ID)
	}
	c.Last, c.Current = c.Current, &Instance{Container: it}
	c.Start, c.Attempt, c.Pulled = Fault{}, a.Attempt+1, false
	c.Started, c.Ready, c.Unhealthy, c.Stopping, c.Killed = false, false, "", false, false
	if cannotRun {
		c.Current = &Instance{Reason: f.Reason, Message: f.Message, Container: runtime.Container{
			Name: a.Container, Attempt: a.Attempt, Sandbox: s.Sandbox.ID, State: runtime.Exited,
			ExitCode: 128, StartedAt: now, FinishedAt: now,
		}}
		c.crash()
	}
}

// Acted is the end of StopContainer, KillContainer, RemoveContainer or Finish.
func (s *State) Acted(a Action) { s.finish(a) }

// Exited is the end of a container's instance. It may be told twice; an id that
// is not the newest instance's of a container is no news.
func (s *State) Exited(id string, e runtime.Exit) bool {
	for _, c := range s.Containers {
		if !c.running() || c.Current.ID != id {
			continue
		}
		it := *c.Current
		it.State, it.Pid = runtime.Exited, 0
		it.ExitCode, it.OOMKilled, it.FinishedAt = e.ExitCode, e.OOMKilled, e.At
		c.Current = &it
		c.Started, c.Ready, c.Unhealthy, c.Stopping, c.Killed = false, false, "", false, false
		c.crash()
		return true
	}
	return false
}

// Probed takes in what a probe says of the instance id.
func (s *State) Probed(name, id string, r probe.Result) {
	c := s.Containers[name]
	if r.Failed || !c.running() || c.Current.ID != id {
		return
	}
	switch {
	case r.Kind == probe.Readiness:
		c.Ready = r.OK
	case r.Kind == probe.Startup && r.OK:
		c.Started = true
	case !r.OK:
		c.Grace = graceOfProbe(find(s.Pod, name), r.Kind)
		c.Unhealthy = "failed " + map[probe.Kind]string{probe.Startup: "startup", probe.Liveness: "liveness"}[r.Kind] + " probe"
	}
}

// graceOfProbe is how many seconds a container has to end in that a probe found at
// fault; nil is as many as its pod.
func graceOfProbe(c *corev1.Container, k probe.Kind) *int64 {
	p := c.LivenessProbe
	if k == probe.Startup {
		p = c.StartupProbe
	}
	if p == nil {
		return nil
	}
	return p.TerminationGracePeriodSeconds
}

// crash counts the end of the current instance.
func (c *Container) crash() {
	if c.Current.FinishedAt.Sub(c.Current.StartedAt) >= steadyRun {
		c.Crashes = 0
	}
	c.Crashes++
}

// backoff limits how soon something is tried again.
type backoff struct{ first, most time.Duration }

var configBackoff = backoff{time.Second, 15 * time.Second} // what a person may be about to put right

// backoff is that of crashes and pulls: functions are waited for, so it is short.
func (s *State) backoff() backoff {
	if isFunction(s.Pod) {
		return backoff{time.Second, time.Minute}
	}
	return backoff{10 * time.Second, 5 * time.Minute}
}

// after is the wait after the n-th failure in a row.
func (b backoff) after(n int) time.Duration {
	d := b.first
	for ; n > 1 && d < b.most; n-- {
		d *= 2
	}
	return min(d, b.most)
}

// restartDelay is the wait between an end and the next start. The first restart
// is at once.
func (s *State) restartDelay(c *Container) time.Duration {
	if c.Crashes <= 1 {
		return 0
	}
	return s.backoff().after(c.Crashes - 1)
}

func (f *Fault) set(next *Fault, now time.Time, b backoff) {
	if next == nil {
		*f = Fault{}
		return
	}
	f.Reason, f.Message = next.Reason, next.Message
	f.Count++
	f.Until = now.Add(b.after(f.Count))
}

// again says whether policy wants a container that has ended to run once more.
func (s *State) again(spec *corev1.Container, init bool, code int) bool {
	return again(s.Pod.Spec.RestartPolicy, spec, init, code)
}

func again(policy corev1.RestartPolicy, spec *corev1.Container, init bool, code int) bool {
	if own := spec.RestartPolicy; own != nil { // the container's goes before the pod's
		policy = corev1.RestartPolicy(*own)
	}
	switch {
	case isSidecar(spec):
		return true
	case init:
		return code != 0 && policy != corev1.RestartPolicyNever
	case policy == corev1.RestartPolicyNever:
		return false
	case policy == corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}
