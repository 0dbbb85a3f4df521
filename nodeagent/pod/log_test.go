package pod

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What is followed ends when a container will not be started again.
func TestFinal(t *testing.T) {
	ended := func(code int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	always := corev1.ContainerRestartPolicyAlways
	for _, c := range []struct {
		name   string
		policy corev1.RestartPolicy
		phase  corev1.PodPhase
		state  corev1.ContainerState
		of     string
		want   bool
	}{
		{"it runs", corev1.RestartPolicyNever, corev1.PodRunning, running, "main", false},
		{"it never starts again", corev1.RestartPolicyNever, corev1.PodRunning, ended(1), "main", true},
		{"it starts again", corev1.RestartPolicyAlways, corev1.PodRunning, ended(0), "main", false},
		{"it has succeeded", corev1.RestartPolicyOnFailure, corev1.PodRunning, ended(0), "main", true},
		{"it has failed", corev1.RestartPolicyOnFailure, corev1.PodRunning, ended(1), "main", false},
		{"the pod has failed", corev1.RestartPolicyOnFailure, corev1.PodFailed, ended(1), "main", true},
		{"initialization is done", corev1.RestartPolicyAlways, corev1.PodPending, ended(0), "init", true},
		{"initialization is tried again", corev1.RestartPolicyAlways, corev1.PodPending, ended(1), "init", false},
		{"a sidecar", corev1.RestartPolicyNever, corev1.PodRunning, ended(0), "side", false},
		{"an ephemeral container", corev1.RestartPolicyAlways, corev1.PodRunning, ended(0), "look", true},
		{"nothing is known", corev1.RestartPolicyNever, corev1.PodPending, ended(0), "other", false},
	} {
		p := &corev1.Pod{
			Spec: corev1.PodSpec{
				RestartPolicy: c.policy, Containers: []corev1.Container{{Name: "main"}},
				InitContainers: []corev1.Container{{Name: "init"}, {Name: "side", RestartPolicy: &always}},
			},
			Status: corev1.PodStatus{Phase: c.phase, ContainerStatuses: []corev1.ContainerStatus{{Name: c.of, State: c.state}}},
		}
		of := c.of
		if of == "other" {
			of = "main"
		}
		if got := Final(p, of); got != c.want {
			t.Errorf("%s: got %t, want %t", c.name, got, c.want)
		}
	}
}
