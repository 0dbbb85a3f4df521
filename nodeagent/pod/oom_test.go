package pod

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func ended(state, last *corev1.ContainerStateTerminated) *corev1.PodStatus {
	s := corev1.ContainerStatus{Name: "main", State: corev1.ContainerState{Terminated: state}}
	s.LastTerminationState.Terminated = last
	return &corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{s}}
}

func TestOutOfMemory(t *testing.T) {
	oom := func(id string) *corev1.ContainerStateTerminated {
		return &corev1.ContainerStateTerminated{Reason: "OOMKilled", ContainerID: id}
	}
	crash := &corev1.ContainerStateTerminated{Reason: "Error", ContainerID: "a"}
	for name, tt := range map[string]struct {
		old, now *corev1.PodStatus
		want     []string
	}{
		"runs":                            {ended(nil, nil), ended(nil, nil), nil},
		"is killed":                       {ended(nil, nil), ended(oom("a"), nil), []string{"main"}},
		"is killed and runs again":        {ended(nil, nil), ended(nil, oom("a")), []string{"main"}},
		"the same end, told before":       {ended(oom("a"), nil), ended(nil, oom("a")), nil},
		"once more":                       {ended(nil, oom("a")), ended(oom("b"), oom("a")), []string{"main"}},
		"ends otherwise":                  {ended(nil, nil), ended(crash, nil), nil},
		"an agent that starts anew":       {ended(nil, oom("a")), ended(nil, oom("a")), nil},
		"killed after it ended otherwise": {ended(nil, crash), ended(nil, oom("b")), []string{"main"}},
	} {
		if got := outOfMemory(tt.old, tt.now); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestKilledFor(t *testing.T) {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}, {Name: "small", Resources: corev1.ResourceRequirements{
		Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("12Mi")},
	}}}}}
	s := &State{Pod: p}
	for name, want := range map[string]string{
		"small": "Container small was killed: it needed more memory than its limit of 12Mi",
		"main":  "Container main was killed: the machine was out of memory",
	} {
		if got := s.killedFor(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
