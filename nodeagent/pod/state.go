// Package pod runs one pod: Step decides purely what comes next, a Worker does
// it. A worker owns its pod alone: its sandbox, containers, volumes, probes and
// its status.
package pod

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// State is all that a worker knows of its pod. Its methods are the transitions;
// Step reads it only.
type State struct {
	Pod       *corev1.Pod // the newest version seen
	HostIP    string
	HostIP6   string    // the machine's other address; "" is none
	StartTime time.Time // when the node accepted the pod

	Sandbox    Sandbox
	Volumes    Volumes
	Containers map[string]*Container // each init, each regular and each ephemeral one
	Garbage    []string              // ids of containers that nothing needs any more

	Frozen  bool            // its processes are stopped, or are about to be: it is idle
	Stop    *Stop           // set: the pod has to end
	Over    bool            // because it was active for longer than it may
	Evicted string          // why it has to go though nobody deleted it; "" is not at all
	Ending  Fault           // of Finish
	Busy    map[string]bool // keys of the actions under way

	Final  *corev1.PodStatus // set: it has ended for good, and so
	Stored bool              // Final is in Objects
	Prev   corev1.PodStatus  // the status told last
	Done   bool              // nothing is left to do, ever
}

// Sandbox is the pod's sandbox; ID is empty while there is none.
type Sandbox struct {
	runtime.Sandbox
	Dead  bool // its pause process has ended
	Fault Fault
}

// Volumes are the pod's volumes.
type Volumes struct {
	Ready, Gone bool
	Fault       Fault
}

// Container is what is known of one container of the pod.
type Container struct {
	Current *Instance // the newest instance; nil before the first start
	Last    *Instance // the one before
	Attempt int       // number of the next instance
	Crashes int       // ends in a row that came soon after the start

	Pulled  bool // the image is there for the next instance
	ImageID string
	Pull    Fault
	Start   Fault

	Started, Ready bool   // what the probes say
	Unhealthy      string // why the running instance has to go; "" if not
	Grace          *int64 // the seconds that it has for that; nil is the pod's

	Stopping bool      // SIGTERM is on its way to the running instance
	Deadline time.Time // when it is killed
	Killed   bool      // SIGKILL is sent
}

// Instance is one instance of a container. It has no ID when it could not be
// started.
type Instance struct {
	runtime.Container
	Reason, Message string // of its end; "" is by the exit code
}

// Fault is something that failed and is tried again at Until.
type Fault struct {
	Reason, Message string
	Count           int
	Until           time.Time
}

// Mode is why a pod has to end and what becomes of it.
type Mode int

// The modes, weakest first.
const (
	Keep   Mode = iota + 1 // the node stops: the pod comes back with it
	Evict                  // the agent was told to stop it: it ends as it is
	Delete                 // the object has a deletionTimestamp: it is removed at the end
	Gone                   // the object is not there any more
)

// Stop is a pod's end.
type Stop struct {
	Mode     Mode
	Since    time.Time
	Deadline time.Time // when what still runs is killed
}

// New is the state of a pod that the node takes on now. sandbox is the one the
// engine has of it, if any: what runs in it goes on.
func New(p *corev1.Pod, hostIP string, sandbox *runtime.Sandbox, now time.Time) *State {
	s := &State{
		Pod: p, HostIP: hostIP, StartTime: now, Busy: map[string]bool{},
		Containers: map[string]*Container{}, Prev: *p.Status.DeepCopy(),
	}
	if p.Status.StartTime != nil {
		s.StartTime = p.Status.StartTime.Time
	}
	if sandbox != nil {
		s.Sandbox = Sandbox{Sandbox: *sandbox, Dead: sandbox.Pid == 0}
	}
	for spec := range all(&p.Spec) {
		s.Containers[spec.Name] = restore(spec.Name, p, sandbox, now)
	}
	for spec := range ephemeral(&p.Spec) {
		s.Containers[spec.Name] = restore(spec.Name, p, sandbox, now)
	}
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		s.Final, s.Stored = p.Status.DeepCopy(), true
	}
	s.Observe(p, now)
	return s
}

// restore finds a container's past in the engine or, where that has none, in
// the status.
func restore(name string, p *corev1.Pod, sandbox *runtime.Sandbox, now time.Time) *Container {
	c := &Container{}
	if sandbox != nil {
		for i := range sandbox.Containers {
			if it := &sandbox.Containers[i]; it.Name == name {
				c.Last, c.Current = c.Current, &Instance{Container: *it}
			}
		}
	}
	cs := statusOf(p, name)
	if c.Current == nil {
		if cs != nil {
			c.Last = lastOf(cs)
		}
		if c.Last != nil {
			c.Attempt = c.Last.Attempt + 1
		}
		return c
	}
	c.Attempt = c.Current.Attempt + 1
	c.ImageID = c.Current.ImageID
	c.Crashes = c.Current.Attempt
	if c.Current.State == runtime.Exited {
		if c.Current.FinishedAt.IsZero() {
			c.Current.FinishedAt = now // back-off counts from it
		}
		c.crash()
		return c
	}
	if cs != nil && cs.ContainerID == containerID(c.Current.ID) {
		c.Started, c.Ready = cs.Started != nil && *cs.Started, cs.Ready
	}
	return c
}

// lastOf is the last instance that a status tells of; nil if there was none.
func lastOf(cs *corev1.ContainerStatus) *Instance {
	t := cs.State.Terminated
	if t == nil && cs.State.Running == nil {
		t = cs.LastTerminationState.Terminated
	}
	it := &Instance{Container: runtime.Container{Name: cs.Name, Attempt: int(cs.RestartCount), State: runtime.Exited}}
	switch {
	case t != nil:
		it.ExitCode, it.Reason, it.Message = int(t.ExitCode), t.Reason, t.Message
		it.StartedAt, it.FinishedAt = t.StartedAt.Time, t.FinishedAt.Time
	case cs.State.Running != nil:
		it.ExitCode, it.Reason, it.Message = 137, "ContainerStatusUnknown", "the container was lost with its node"
		it.StartedAt = cs.State.Running.StartedAt.Time
	default:
		return nil
	}
	return it
}

// Observe takes in a newer version of the object.
func (s *State) Observe(p *corev1.Pod, now time.Time) {
	s.Pod = p
	s.meet(p, now)
	if p.DeletionTimestamp == nil {
		return
	}
	grace := graceOf(p)
	// The deletion may be older than this agent, and clocks may differ; its time
	// has whole seconds, so up to one is missing.
	left := min(max(p.DeletionTimestamp.Sub(now)+time.Second, 2*time.Second), grace)
	s.End(Delete, left, now)
}

// End makes the pod stop within grace. A later call may shorten the time and
// strengthen the mode.
func (s *State) End(mode Mode, grace time.Duration, now time.Time) {
	deadline := now.Add(max(grace, 0))
	if s.Stop == nil {
		s.Stop = &Stop{Mode: mode, Since: now, Deadline: deadline}
		return
	}
	next := *s.Stop
	next.Mode = max(next.Mode, mode)
	if deadline.Before(next.Deadline) {
		next.Deadline = deadline
	}
	s.Stop = &next
}

// Expire makes a pod stop that has been active for as long as it may.
func (s *State) Expire(now time.Time) {
	at := s.expiry()
	if at.IsZero() || now.Before(at) || s.Over || s.Done || s.Stop != nil || s.Final != nil {
		return
	}
	if phase := s.phase(); phase == corev1.PodSucceeded || phase == corev1.PodFailed {
		return
	}
	s.Over = true
	s.End(Evict, graceOf(s.Pod), now)
}

// Exceed makes a pod stop that has more on disk than it may: at once, as with
// kubelet. It does not come back.
func (s *State) Exceed(what string, now time.Time) bool {
	if s.Evicted != "" || s.Done || s.Stop != nil || s.Final != nil {
		return false
	}
	s.Evicted = what
	s.End(Evict, time.Second, now)
	return true
}

// expiry is when a pod has been active for as long as it may; zero is never.
func (s *State) expiry() time.Time {
	if s.Pod.Spec.ActiveDeadlineSeconds == nil {
		return time.Time{}
	}
	return s.StartTime.Add(time.Duration(*s.Pod.Spec.ActiveDeadlineSeconds) * time.Second)
}

func graceOf(p *corev1.Pod) time.Duration {
	switch {
	case p.DeletionGracePeriodSeconds != nil:
		return time.Duration(*p.DeletionGracePeriodSeconds) * time.Second
	case p.Spec.TerminationGracePeriodSeconds != nil:
		return time.Duration(*p.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	return 30 * time.Second
}

// isFunction tells pods of functions, which start anew sooner and are ready
// when they accept a connection.
func isFunction(p *corev1.Pod) bool { return p.Labels[api.LabelFunction] != "" }

// all yields each container of a pod, init containers first, and whether it is one.
func all(spec *corev1.PodSpec) func(func(*corev1.Container, bool) bool) {
	return func(yield func(*corev1.Container, bool) bool) {
		for i := range spec.InitContainers {
			if !yield(&spec.InitContainers[i], true) {
				return
			}
		}
		for i := range spec.Containers {
			if !yield(&spec.Containers[i], false) {
				return
			}
		}
	}
}

// isSidecar tells an init container that runs as long as the pod.
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func statusOf(p *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// containerID is the id as a status shows it.
func containerID(id string) string {
	if id == "" {
		return ""
	}
	return "containerd://" + id
}

func (c *Container) running() bool { return c.Current != nil && c.Current.State == runtime.Running }
