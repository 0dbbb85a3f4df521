package pod

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

const cannotRunReason = "ContainerCannotRun"

// status is the pod's status as it is to be seen by everybody.
func (s *State) status(now time.Time) corev1.PodStatus {
	if s.Final != nil {
		return *s.Final.DeepCopy()
	}
	start := metav1.NewTime(s.StartTime).Rfc3339Copy()
	st := corev1.PodStatus{
		ObservedGeneration: s.Pod.Generation,
		Phase:              s.phase(), StartTime: &start, QOSClass: rules.QOS(s.Pod),
		NominatedNodeName: s.Pod.Status.NominatedNodeName,
	}
	if s.Over && st.Phase == corev1.PodFailed {
		st.Reason, st.Message = "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
	}
	if s.Evicted != "" && st.Phase == corev1.PodFailed {
		st.Reason, st.Message = "Evicted", s.Evicted
	}
	if s.HostIP != "" {
		st.HostIP = s.HostIP
		for _, ip := range s.hostIPs() {
			st.HostIPs = append(st.HostIPs, corev1.HostIP{IP: ip})
		}
	}
	if ips := s.ips(); len(ips) > 0 && s.Sandbox.ID != "" {
		st.PodIP = ips[0]
		for _, ip := range ips {
			st.PodIPs = append(st.PodIPs, corev1.PodIP{IP: ip})
		}
	}
	initialized := s.initialized()
	for spec, init := range all(&s.Pod.Spec) {
		cs := s.containerStatus(spec, init, initialized, now)
		if init {
			st.InitContainerStatuses = append(st.InitContainerStatuses, cs)
		} else {
			st.ContainerStatuses = append(st.ContainerStatuses, cs)
		}
	}
	for spec := range ephemeral(&s.Pod.Spec) {
		st.EphemeralContainerStatuses = append(st.EphemeralContainerStatuses, s.ephemeralStatus(spec))
	}
	st.Conditions = s.conditions(&st, initialized, now)
	return st
}

func (s *State) hostIPs() []string {
	host := runtime.Sandbox{IP: s.HostIP, IP6: s.HostIP6}
	return host.IPs()
}

// ips are the pod's addresses, the first one in IPv4.
func (s *State) ips() []string {
	if s.Pod.Spec.HostNetwork {
		return s.hostIPs()
	}
	return s.Sandbox.IPs()
}

// phase sums the containers up.
func (s *State) phase() corev1.PodPhase {
	if s.Final != nil {
		return s.Final.Phase
	}
	kept := s.Stop != nil && s.Stop.Mode == Keep
	ending := s.Stop != nil && !kept
	over, failed, begun := true, false, true
	for spec, init := range all(&s.Pod.Spec) {
		c := s.Containers[spec.Name]
		ended := c.Current != nil && !c.running()
		bad := ended && c.Current.ExitCode != 0
		switch {
		case init && bad && !isSidecar(spec) && !kept && (ending || !s.again(spec, true, c.Current.ExitCode)):
			if !s.anyAlive() {
				return corev1.PodFailed
			}
			over = false
		case init:
		default:
			begun = begun && (c.Current != nil || c.Last != nil)
			over = over && ended && (ending || !s.again(spec, false, c.Current.ExitCode))
			failed = failed || bad
		}
	}
	switch {
	case (s.Over || s.Evicted != "") && (over || !s.anyAlive()):
		return corev1.PodFailed
	case kept && s.Prev.Phase != "":
		return s.Prev.Phase
	case over && !kept && failed:
		return corev1.PodFailed
	case over && !kept && len(s.Pod.Spec.Containers) > 0:
		return corev1.PodSucceeded
	case begun:
		return corev1.PodRunning
	}
	return corev1.PodPending
}

// anyAlive tells whether any container but a sidecar runs.
func (s *State) anyAlive() bool {
	for spec := range all(&s.Pod.Spec) {
		if !isSidecar(spec) && s.Containers[spec.Name].running() {
			return true
		}
	}
	return false
}

// initialized tells whether the init containers are done. Regular containers
// that were there once prove it for good.
func (s *State) initialized() bool {
	for i := range s.Pod.Spec.Containers {
		if s.Containers[s.Pod.Spec.Containers[i].Name].Current != nil {
			return true
		}
	}
	for i := range s.Pod.Spec.InitContainers {
		if !s.initDone(&s.Pod.Spec.InitContainers[i]) {
			return false
		}
	}
	return true
}

// started tells whether the running instance has got through its startup probe.
func (s *State) started(spec *corev1.Container) bool {
	c := s.Containers[spec.Name]
	return c.running() && (spec.StartupProbe == nil || c.Started)
}

func (s *State) ready(spec *corev1.Container) bool {
	return s.started(spec) && !s.Sandbox.Dead && (readiness(s.Pod, spec) == nil || s.Containers[spec.Name].Ready)
}

func (s *State) containerStatus(spec *corev1.Container, init, initialized bool, now time.Time) corev1.ContainerStatus {
	c := s.Containers[spec.Name]
	started := s.started(spec)
	cs := corev1.ContainerStatus{
		Name: spec.Name, Image: spec.Image, ImageID: c.ImageID,
		Ready: s.ready(spec), Started: &started,
		RestartCount: int32(max(c.Attempt-1, 0)),
	}
	if init && !isSidecar(spec) {
		cs.Ready = s.initDone(spec)
	}
	if c.Current != nil {
		cs.RestartCount, cs.ContainerID = int32(c.Current.Attempt), containerID(c.Current.ID)
		if c.Current.ImageID != "" {
			cs.ImageID = c.Current.ImageID
		}
	}
	if c.running() {
		cs.State.Running = &corev1.ContainerStateRunning{StartedAt: stamp(c.Current.StartedAt)}
		cs.LastTerminationState = terminated(c.Last)
		return cs
	}
	w := s.waiting(spec, init, initialized, now)
	if w == nil {
		cs.State, cs.LastTerminationState = terminated(c.Current), terminated(c.Last)
		return cs
	}
	cs.State.Waiting = w
	cs.LastTerminationState = terminated(c.Last)
	if c.Current != nil {
		cs.LastTerminationState = terminated(c.Current)
	}
	return cs
}

// waiting says why a container that does not run does not; nil when it has
// ended and nothing holds up what comes next.
func (s *State) waiting(spec *corev1.Container, init, initialized bool, now time.Time) *corev1.ContainerStateWaiting {
	c := s.Containers[spec.Name]
	if c.Current != nil {
		redo := init && c.Current.Sandbox != s.Sandbox.ID
		if s.Stop != nil || !redo && !s.again(spec, init, c.Current.ExitCode) {
			return nil
		}
		if delay := s.restartDelay(c); now.Before(c.Current.FinishedAt.Add(delay)) {
			return &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: fmt.Sprintf(
				"back-off %s restarting failed container=%s pod=%s_%s(%s)", delay, spec.Name, s.Pod.Name, s.Pod.Namespace, s.Pod.UID)}
		}
	}
	f := c.Pull
	switch {
	case f.Count > 0 && f.Reason == "ErrImagePull" && f.Count > 1 && !s.Busy[Action{Kind: Pull, Container: spec.Name}.Key()]:
		return &corev1.ContainerStateWaiting{
			Reason: "ImagePullBackOff", Message: fmt.Sprintf("Back-off pulling image %q: %s", spec.Image, f.Message),
		}
	case f.Count > 0:
	case s.Volumes.Fault.Count > 0:
		f = s.Volumes.Fault
	default:
		f = c.Start
	}
	switch {
	case f.Count > 0:
		return &corev1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	case c.Current != nil:
		return nil
	case !initialized && !init || init && !s.firstInLine(spec):
		return &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &corev1.ContainerStateWaiting{Reason: "ContainerCreating", Message: s.Sandbox.Fault.Message}
}

// firstInLine tells whether all init containers before spec are done.
func (s *State) firstInLine(spec *corev1.Container) bool {
	for i := range s.Pod.Spec.InitContainers {
		it := &s.Pod.Spec.InitContainers[i]
		if it.Name == spec.Name {
			return true
		}
		if !s.initDone(it) {
			return false
		}
	}
	return true
}

func terminated(it *Instance) corev1.ContainerState {
	if it == nil || it.State != runtime.Exited {
		return corev1.ContainerState{}
	}
	t := &corev1.ContainerStateTerminated{
		ExitCode: int32(it.ExitCode), Signal: int32(it.Signal), Reason: it.Reason, Message: it.Message,
		StartedAt: stamp(it.StartedAt), FinishedAt: stamp(it.FinishedAt), ContainerID: containerID(it.ID),
	}
	switch {
	case t.Reason != "":
	case it.OOMKilled:
		t.Reason = "OOMKilled"
	case it.ExitCode == 0:
		t.Reason = "Completed"
	default:
		t.Reason = "Error"
	}
	return corev1.ContainerState{Terminated: t}
}

// stamp has the resolution of the wire, so that a status equals what is read
// back.
func stamp(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t).Rfc3339Copy()
}

// owned tells whether the node agent writes a type of condition.
func owned(t corev1.PodConditionType) bool {
	return slices.Contains([]corev1.PodConditionType{
		corev1.PodScheduled, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady,
		api.ConditionFrozen,
	}, t)
}

func (s *State) conditions(st *corev1.PodStatus, initialized bool, now time.Time) []corev1.PodCondition {
	var out []corev1.PodCondition
	set := func(t corev1.PodConditionType, yes bool, reason, message string) {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: stamp(now), ObservedGeneration: s.Pod.Generation}
		if !yes {
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, reason, message
		}
		for _, old := range s.Prev.Conditions {
			if old.Type == t && old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
		out = append(out, c)
	}
	var undone, unready []string
	for spec, init := range all(&s.Pod.Spec) {
		switch {
		case init && !s.initDone(spec):
			undone = append(undone, spec.Name)
		case !init && !s.ready(spec):
			unready = append(unready, spec.Name)
		}
	}
	set(corev1.PodScheduled, true, "", "")
	set(corev1.PodReadyToStartContainers, s.Sandbox.ID != "" && !s.Sandbox.Dead, "", "")
	set(corev1.PodInitialized, initialized || st.Phase == corev1.PodSucceeded, "ContainersNotInitialized",
		"containers with incomplete status: ["+strings.Join(undone, " ")+"]")
	reason, message := "ContainersNotReady", "containers with unready status: ["+strings.Join(unready, " ")+"]"
	if st.Phase == corev1.PodSucceeded {
		reason, message = "PodCompleted", ""
	}
	if st.Phase == corev1.PodFailed {
		reason, message = "PodFailed", ""
	}
	ok := len(unready) == 0 && initialized
	set(corev1.ContainersReady, ok, reason, message)
	if gate := s.closedGate(); ok && gate != "" {
		ok, reason, message = false, "ReadinessGatesNotReady", fmt.Sprintf("condition %q of the readiness gates is not true", gate)
	}
	set(corev1.PodReady, ok, reason, message)
	if s.Frozen && s.Stop == nil {
		set(api.ConditionFrozen, true, "", "")
	}
	return out
}

// closedGate is a readiness gate whose condition is not true; "" if none.
func (s *State) closedGate() corev1.PodConditionType {
	for _, g := range s.Pod.Spec.ReadinessGates {
		open := false
		for _, c := range s.Pod.Status.Conditions {
			open = open || c.Type == g.ConditionType && c.Status == corev1.ConditionTrue
		}
		if !open {
			return g.ConditionType
		}
	}
	return ""
}
