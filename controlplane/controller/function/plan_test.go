package function

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func deploymentOf(want, replicas, updated, available int32) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: 2}}
	d.Spec.Replicas = &want
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: replicas, UpdatedReplicas: updated, AvailableReplicas: available}
	return d
}

func waitingFor(name, reason string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "because"}}}}
	return p
}

func TestStatus(t *testing.T) {
	unplaced := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	unplaced.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes are available"}}
	stuck := deploymentOf(1, 1, 1, 0)
	stuck.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded"}}
	for name, tt := range map[string]struct {
		d    *appsv1.Deployment
		pods []*corev1.Pod
		err  error
		want [4]string // Ready, Healthy, Reconciling, Stalled
	}{
		"no deployment yet": {want: [4]string{"False NoReplicaAvailable", "False ReplicasUnavailable", "True Progressing", "False NoFault"}},
		"all there":         {d: deploymentOf(2, 2, 2, 2), want: [4]string{"True ReplicasAvailable", "True AllAvailable", "False Settled", "False NoFault"}},
		"at zero":           {d: deploymentOf(0, 0, 0, 0), want: [4]string{"True ScaledToZero", "True AllAvailable", "False Settled", "False NoFault"}},
		"starting": {
			d: deploymentOf(1, 1, 1, 0), pods: []*corev1.Pod{waitingFor("p", "ContainerCreating")},
			want: [4]string{"False NoReplicaAvailable", "False ReplicasUnavailable", "True Progressing", "False NoFault"},
		},
		"no such image": {
			d: deploymentOf(1, 1, 1, 0), pods: []*corev1.Pod{waitingFor("p", "ImagePullBackOff")},
			want: [4]string{"False ImagePullBackOff", "False ImagePullBackOff", "True Progressing", "True ImagePullBackOff"},
		},
		"crashes, the old one serves": {
			d: deploymentOf(1, 2, 1, 1), pods: []*corev1.Pod{waitingFor("p", "CrashLoopBackOff")},
			want: [4]string{"True ReplicasAvailable", "False CrashLoopBackOff", "True Progressing", "True CrashLoopBackOff"},
		},
		"no room": {
			d: deploymentOf(1, 1, 1, 0), pods: []*corev1.Pod{unplaced},
			want: [4]string{"False Unschedulable", "False Unschedulable", "True Progressing", "True Unschedulable"},
		},
		"takes too long": {d: stuck, want: [4]string{"False ProgressDeadlineExceeded", "False ProgressDeadlineExceeded", "True Progressing", "True ProgressDeadlineExceeded"}},
		"can't be applied": {
			d: deploymentOf(1, 1, 1, 1), err: errors.New("no"),
			want: [4]string{"True ReplicasAvailable", "False ApplyFailed", "False Settled", "True ApplyFailed"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := status(&api.Function{ObjectMeta: metav1.ObjectMeta{Generation: 3}}, tt.d, tt.pods, tt.err, now)
			var got [4]string
			for i, k := range []string{condReady, condHealthy, condReconciling, condStalled} {
				for _, c := range st.Conditions {
					if c.Type == k {
						got[i] = string(c.Status) + " " + c.Reason
					}
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || st.ObservedGeneration != 3 {
				t.Errorf("generation %d, conditions (-want +got):\n%s", st.ObservedGeneration, diff)
			}
		})
	}
}

// Pods of the version before say nothing of the one that was deployed since.
func TestTroubleIsOfTheNewestVersion(t *testing.T) {
	old, fresh := waitingFor("a", "ImagePullBackOff"), waitingFor("b", "ContainerCreating")
	old.Labels, fresh.Labels = map[string]string{api.LabelPodTemplateHash: "1"}, map[string]string{api.LabelPodTemplateHash: "2"}
	old.CreationTimestamp, fresh.CreationTimestamp = metav1.NewTime(now), metav1.NewTime(now.Add(time.Second))
	if reason, message := trouble(nil, replicas([]*corev1.Pod{old, fresh}), nil); reason != "" {
		t.Errorf("%s: %s", reason, message)
	}
	if reason, _ := trouble(nil, replicas([]*corev1.Pod{old}), nil); reason != "ImagePullBackOff" {
		t.Errorf("the old one alone: %q", reason)
	}
}

func TestEnds(t *testing.T) {
	restarted := func(name string, n int32, reason string, at time.Time) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n, LastTerminationState: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: 137, FinishedAt: metav1.NewTime(at)},
		}}}
		return p
	}
	gone := restarted("gone", 9, "Error", now.Add(time.Hour))
	gone.DeletionTimestamp = &metav1.Time{Time: now}
	st := status(&api.Function{}, deploymentOf(2, 2, 2, 2), []*corev1.Pod{restarted("a", 1, "Error", now), restarted("b", 2, "OOMKilled", now.Add(time.Minute)), gone}, nil, now)
	want := &api.FunctionTermination{Pod: "b", Reason: "OOMKilled", ExitCode: 137, Time: metav1.NewTime(now.Add(time.Minute))}
	if diff := cmp.Diff(want, st.LastTermination); diff != "" || st.Restarts != 3 {
		t.Errorf("%d restarts, last (-want +got)\n%s", st.Restarts, diff)
	}
}
