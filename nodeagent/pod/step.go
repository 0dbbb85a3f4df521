package pod

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
)

// Kind is what an action does.
type Kind string

// The kinds of action.
const (
	PrepareVolumes  Kind = "PrepareVolumes"
	StartSandbox    Kind = "StartSandbox"
	RemoveSandbox   Kind = "RemoveSandbox"
	Pull            Kind = "Pull"
	StartContainer  Kind = "StartContainer"
	StopContainer   Kind = "StopContainer" // preStop hook, then SIGTERM
	KillContainer   Kind = "KillContainer"
	RemoveContainer Kind = "RemoveContainer"
	RemoveVolumes   Kind = "RemoveVolumes"
	Finish          Kind = "Finish" // the last one: the object's part
)

// Action is one thing to do. Actions of one Step may be done at the same time.
type Action struct {
	Kind      Kind
	Container string
	ID        string    // of the sandbox or the container's instance
	Attempt   int       // of StartContainer
	Deadline  time.Time // of StopContainer: when SIGKILL follows
}

// Key names the action among those under way.
func (a Action) Key() string {
	if a.Kind == RemoveContainer {
		return string(a.Kind) + " " + a.ID
	}
	return string(a.Kind) + " " + a.Container
}

func (a Action) String() string {
	switch {
	case a.Kind == StartContainer:
		return fmt.Sprintf("%s %s/%d", a.Kind, a.Container, a.Attempt)
	case a.Container == "" && a.ID != "":
		return string(a.Kind) + " " + a.ID
	case a.Container == "":
		return string(a.Kind)
	}
	return string(a.Kind) + " " + a.Container
}

// Result is what Step decides.
type Result struct {
	Actions []Action
	Status  corev1.PodStatus
	Wake    time.Time // decide again then at the latest; zero is never
	Final   bool      // the pod has ended for good: Status is its last one
}

// killWait is how long a SIGKILL may take before the sandbox is removed with
// what is in it.
const killWait = 2 * time.Second

// drainReserve is the part of the grace period that is kept for SIGTERM when
// draining does not come to an end.
const drainReserve = 5 * time.Second

type step struct {
	*State
	now time.Time
	r   Result
}

// Step decides what has to be done for a pod now, and what its status is.
func Step(s *State, now time.Time) Result {
	st := &step{State: s, now: now}
	phase := s.phase()
	switch {
	case s.Done:
	case s.Stop != nil:
		st.terminate()
	case s.Final != nil:
		if s.Stored && !s.starting() {
			st.clear()
		}
	case phase == corev1.PodSucceeded || phase == corev1.PodFailed:
		st.r.Final = true
	default:
		st.wait(s.expiry())
		st.run()
	}
	st.r.Status = s.status(now)
	return st.r
}

func (s *step) act(a Action) {
	asked := slices.ContainsFunc(s.r.Actions, func(b Action) bool { return b.Key() == a.Key() })
	if !asked && !s.Busy[a.Key()] {
		s.r.Actions = append(s.r.Actions, a)
	}
}

func (s *State) busy(k Kind) bool { return s.Busy[Action{Kind: k}.Key()] }

// wait asks for another Step at t and reports whether t is still to come.
func (s *step) wait(t time.Time) bool {
	if !t.After(s.now) {
		return false
	}
	if s.r.Wake.IsZero() || t.Before(s.r.Wake) {
		s.r.Wake = t
	}
	return true
}

// run brings the pod up and keeps it up.
func (s *step) run() {
	if s.busy(RemoveSandbox) {
		return
	}
	if s.Sandbox.ID != "" && s.Sandbox.Dead {
		if !s.starting() && !s.wait(s.Sandbox.Fault.Until) {
			s.act(Action{Kind: RemoveSandbox, ID: s.Sandbox.ID})
		}
		return
	}
	if !s.Volumes.Ready && !s.wait(s.Volumes.Fault.Until) {
		s.act(Action{Kind: PrepareVolumes})
	}
	if s.Sandbox.ID == "" && !s.wait(s.Sandbox.Fault.Until) {
		s.act(Action{Kind: StartSandbox})
	}
	for _, id := range s.Garbage {
		s.act(Action{Kind: RemoveContainer, ID: id})
	}
	for spec := range all(&s.Pod.Spec) {
		if c := s.Containers[spec.Name]; c.Current == nil {
			s.pull(spec, c) // before its turn: pulls take longest
		}
	}
	s.visit()
	if !s.initialize() && !s.begun() {
		return
	}
	for i := range s.Pod.Spec.Containers {
		s.advance(&s.Pod.Spec.Containers[i], false)
	}
}

// initialize runs the init containers in order; true when the last one is done.
func (s *step) initialize() bool {
	for i := range s.Pod.Spec.InitContainers {
		spec := &s.Pod.Spec.InitContainers[i]
		if s.initDone(spec) && !isSidecar(spec) {
			continue
		}
		s.advance(spec, true)
		if !s.initDone(spec) {
			return false
		}
	}
	return true
}

// begun tells whether regular containers were started in this sandbox: then a
// sidecar that is down holds nothing up any more.
func (s *step) begun() bool {
	for i := range s.Pod.Spec.Containers {
		if c := s.Containers[s.Pod.Spec.Containers[i].Name]; c.Current != nil && c.Current.Sandbox == s.Sandbox.ID {
			return true
		}
	}
	return false
}

// initDone tells whether an init container lets the next one start. The work
// of an init container ends with its sandbox.
func (s *State) initDone(spec *corev1.Container) bool {
	c := s.Containers[spec.Name]
	switch {
	case c.Current == nil || c.Current.Sandbox != s.Sandbox.ID:
		return false
	case isSidecar(spec):
		return c.running() && s.started(spec)
	}
	return !c.running() && c.Current.ExitCode == 0
}

// advance brings one container nearer to running.
func (s *step) advance(spec *corev1.Container, init bool) {
	c := s.Containers[spec.Name]
	if c.running() {
		s.heal(c)
		return
	}
	if c.Current != nil {
		if !init && !s.again(spec, init, c.Current.ExitCode) {
			return
		}
		if s.wait(c.Current.FinishedAt.Add(s.restartDelay(c))) {
			return
		}
	}
	s.pull(spec, c)
	if !c.Pulled || !s.Volumes.Ready || s.Sandbox.ID == "" || s.wait(c.Start.Until) {
		return
	}
	s.act(Action{Kind: StartContainer, Container: spec.Name, Attempt: c.Attempt})
}

func (s *step) pull(spec *corev1.Container, c *Container) {
	if !c.Pulled && !s.wait(c.Pull.Until) {
		s.act(Action{Kind: Pull, Container: spec.Name})
	}
}

// heal ends an instance whose probes say that it has to go.
func (s *step) heal(c *Container) {
	if c.Unhealthy == "" {
		return
	}
	name, id := c.Current.Name, c.Current.ID
	grace := graceOf(s.Pod)
	if c.Grace != nil {
		grace = time.Duration(*c.Grace) * time.Second
	}
	switch {
	case !c.Stopping:
		s.act(Action{Kind: StopContainer, Container: name, ID: id, Deadline: s.now.Add(grace)})
	case !c.Killed && !s.wait(c.Deadline):
		s.act(Action{Kind: KillContainer, Container: name, ID: id})
	}
}

// starting tells whether something is being made that must not be lost.
func (s *State) starting() bool {
	if s.busy(StartSandbox) || s.busy(PrepareVolumes) {
		return true
	}
	for name := range s.Containers {
		if s.Busy[Action{Kind: StartContainer, Container: name}.Key()] {
			return true
		}
	}
	return false
}

// terminate ends the pod: drain, SIGTERM, SIGKILL, sandbox, volumes, object.
func (s *step) terminate() {
	if s.starting() || s.busy(RemoveSandbox) {
		return
	}
	if s.Sandbox.ID != "" && !s.Sandbox.Dead && s.anyRunning(true) {
		if s.held() {
			return
		}
		if !s.signal() {
			return
		}
	}
	if s.clear() && !s.wait(s.Ending.Until) {
		s.act(Action{Kind: Finish})
	}
}

// held tells whether SIGTERM has to wait for the requests in flight.
func (s *step) held() bool {
	_, drain := s.Pod.Annotations[api.AnnotationDrain]
	_, drained := s.Pod.Annotations[api.AnnotationDrained]
	return s.Stop.Mode == Delete && drain && !drained && s.wait(s.Stop.Deadline.Add(-drainReserve))
}

// signal stops what runs, sidecars after the others; true when no more time is
// to be given.
func (s *step) signal() bool {
	regular := s.anyRunning(false)
	for spec, init := range all(&s.Pod.Spec) {
		s.end(spec.Name, init && isSidecar(spec) && regular)
	}
	for spec := range ephemeral(&s.Pod.Spec) {
		s.end(spec.Name, false)
	}
	return !s.wait(s.Stop.Deadline) && !s.wait(s.Stop.Deadline.Add(killWait))
}

// end stops a container, or kills it when its time is over; later is that others
// have to end before.
func (s *step) end(name string, later bool) {
	c := s.Containers[name]
	if !c.running() {
		return
	}
	a := Action{Kind: StopContainer, Container: name, ID: c.Current.ID, Deadline: s.Stop.Deadline}
	late := !s.now.Before(s.Stop.Deadline)
	switch {
	case late && !c.Killed:
		a.Kind, a.Deadline = KillContainer, time.Time{}
		s.act(a)
	case !late && !c.Stopping && !later:
		s.act(a)
	}
}

// anyRunning tells whether a container runs; sidecars, and what somebody looks
// into the pod with, count if they should.
func (s *step) anyRunning(sidecars bool) bool {
	for spec := range ephemeral(&s.Pod.Spec) {
		if sidecars && s.Containers[spec.Name].running() {
			return true
		}
	}
	for spec, init := range all(&s.Pod.Spec) {
		if s.Containers[spec.Name].running() && (sidecars || !init || !isSidecar(spec)) {
			return true
		}
	}
	return false
}

// clear removes sandbox and volumes; true when nothing is left of them.
func (s *step) clear() bool {
	switch {
	case s.Sandbox.ID != "":
		if !s.wait(s.Sandbox.Fault.Until) {
			s.act(Action{Kind: RemoveSandbox, ID: s.Sandbox.ID})
		}
		return false
	case !s.Volumes.Gone:
		if !s.wait(s.Volumes.Fault.Until) {
			s.act(Action{Kind: RemoveVolumes})
		}
		return false
	}
	return true
}
