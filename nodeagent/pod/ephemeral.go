package pod

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// ephemeral yields each ephemeral container of a pod, as a container, and the
// one whose process namespace it is to share; "" is none. They come to a pod
// that is there, run once, and count for nothing that the pod is.
func ephemeral(spec *corev1.PodSpec) func(func(c *corev1.Container, target string) bool) {
	return func(yield func(*corev1.Container, string) bool) {
		for i := range spec.EphemeralContainers {
			e := &spec.EphemeralContainers[i]
			if !yield((*corev1.Container)(&e.EphemeralContainerCommon), e.TargetContainerName) {
				return
			}
		}
	}
}

// visit starts the ephemeral containers that have not been started yet.
func (s *step) visit() {
	for spec := range ephemeral(&s.Pod.Spec) {
		c := s.Containers[spec.Name]
		if c.Current != nil || c.Last != nil {
			continue // it has had its turn
		}
		s.pull(spec, c)
		if c.Pulled && s.Volumes.Ready && s.Sandbox.ID != "" && !s.wait(c.Start.Until) {
			s.act(Action{Kind: StartContainer, Container: spec.Name})
		}
	}
}

func (s *State) ephemeralStatus(spec *corev1.Container) corev1.ContainerStatus {
	c := s.Containers[spec.Name]
	cs := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, ImageID: c.ImageID}
	it := c.Current
	if it == nil {
		it = c.Last
	}
	switch {
	case c.running():
		cs.State.Running = &corev1.ContainerStateRunning{StartedAt: stamp(it.StartedAt)}
	case it != nil:
		cs.State = terminated(it)
	case c.Pull.Count > 0:
		cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: c.Pull.Reason, Message: c.Pull.Message}
	case c.Start.Count > 0:
		cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: c.Start.Reason, Message: c.Start.Message}
	default:
		cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	}
	if it != nil {
		cs.ContainerID = containerID(it.ID)
		if it.ImageID != "" {
			cs.ImageID = it.ImageID
		}
	}
	return cs
}

// target is the instance whose process namespace a container is to share; "" is
// none.
func target(p *corev1.Pod, container string) (string, error) {
	for c, of := range ephemeral(&p.Spec) {
		if c.Name != container || of == "" {
			continue
		}
		cs := statusOf(p, of)
		if cs == nil || cs.State.Running == nil {
			return "", fmt.Errorf("the target container %q does not run", of)
		}
		return strings.TrimPrefix(cs.ContainerID, "containerd://"), nil
	}
	return "", nil
}

// meet takes in the ephemeral containers that are new.
func (s *State) meet(p *corev1.Pod, now time.Time) {
	for spec := range ephemeral(&p.Spec) {
		if s.Containers[spec.Name] == nil {
			s.Containers[spec.Name] = restore(spec.Name, p, nil, now)
		}
	}
}
