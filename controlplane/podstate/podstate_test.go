package podstate

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func crashed(backoff string) *corev1.Pod {
	p := &corev1.Pod{}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "main", RestartCount: 3,
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off " + backoff + " restarting"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason: "OOMKilled", ExitCode: 137, FinishedAt: metav1.NewTime(time.Unix(9, 0)),
		}},
	}}
	return p
}

// A pause that grows must not be a write of every status that tells of it.
func TestTroubleIsStable(t *testing.T) {
	reason, early := Trouble(crashed("2s"))
	_, late := Trouble(crashed("16s"))
	if reason != "CrashLoopBackOff" || early != late || !strings.Contains(late, "it last ended with OOMKilled, exit code 137") {
		t.Errorf("%s: %q, later %q", reason, early, late)
	}
}

func TestLastEnd(t *testing.T) {
	if got := LastEnd(&corev1.Pod{}); got != nil {
		t.Errorf("got %v, want none", got)
	}
	p := crashed("2s")
	if got := LastEnd(p); got == nil || got.ExitCode != 137 {
		t.Errorf("got %v, want that of main", got)
	}
	p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: "side", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, FinishedAt: metav1.NewTime(time.Unix(10, 0))},
	}})
	if got := LastEnd(p); got.ExitCode != 1 {
		t.Errorf("got %v, want the newer one", got)
	}
}
