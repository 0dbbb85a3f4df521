package clients

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/test/history"
)

// upstreamScheduler runs Kubernetes' own scheduler for pods that name it.
func upstreamScheduler(t *testing.T, s *server) {
	t.Helper()
	u := newUpstream(t, s, "kube-scheduler")
	u.run("--config=" + u.write("config", fmt.Sprintf(`
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %s}
leaderElection: {leaderElect: true, resourceNamespace: %s, resourceName: scheduler}
profiles: [{schedulerName: upstream}]
`, u.kubeconfig, history.Namespace)))
}

// Kubernetes' scheduler places the pods that name it, and no others, and says why one
// has to wait, in Events of their newer group.
func TestUpstreamScheduler(t *testing.T) {
	s := newServer(t)
	namespace(t, s)
	user := client(t, s)
	size := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("10")}
	node, err := user.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Capacity, node.Status.Allocatable = size, size
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if _, err := user.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	pods := user.CoreV1().Pods(history.Namespace)
	create := func(name, scheduler, cpu string) {
		t.Helper()
		if _, err := pods.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PodSpec{SchedulerName: scheduler, Containers: []corev1.Container{{
				Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
			}}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("theirs", "", "100m")
	create("before", "upstream", "1500m")
	upstreamScheduler(t, s)
	placed := func(name string) func() error {
		return func() error {
			p, err := pods.Get(t.Context(), name, metav1.GetOptions{})
			if err == nil && p.Spec.NodeName != "n" {
				err = fmt.Errorf("%s is on %q: %+v", name, p.Spec.NodeName, p.Status)
			}
			return err
		}
	}
	eventually(t, placed("before"))
	create("waits", "upstream", "1")
	told := func(pod, reason, text string) func() error {
		return func() error {
			l, err := user.EventsV1().Events(history.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "regarding.name=" + pod + ",reason=" + reason})
			if err == nil && (len(l.Items) == 0 || !strings.Contains(l.Items[0].Note, text) || l.Items[0].ReportingController != "upstream") {
				err = fmt.Errorf("told of %s is %+v, want %s: %s", pod, l.Items, reason, text)
			}
			return err
		}
	}
	eventually(t, told("before", "Scheduled", "assigned "+history.Namespace+"/before to n"))
	eventually(t, told("waits", "FailedScheduling", "Insufficient cpu"))
	// It goes when there is room.
	if err := pods.Delete(t.Context(), "before", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, placed("waits"))
	if p, err := pods.Get(t.Context(), "theirs", metav1.GetOptions{}); err != nil || p.Spec.NodeName != "" {
		t.Errorf("the pod of another scheduler is on %q, %v", p.Spec.NodeName, err)
	}
	if l, err := user.CoordinationV1().Leases(history.Namespace).Get(t.Context(), "scheduler", metav1.GetOptions{}); err != nil || time.Since(l.Spec.RenewTime.Time) > time.Minute {
		t.Errorf("the lease is %+v, %v", l, err)
	}
}
