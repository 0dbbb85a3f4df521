package pod

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod that was active for too long says so, and does not come back with its
// node.
func TestExpiredSaysWhy(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid"}}
	p.Spec.ActiveDeadlineSeconds = new(int64(5))
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	s := New(p, "192.0.2.9", nil, begin)
	if s.Expire(begin.Add(4 * time.Second)); s.Stop != nil {
		t.Fatal("it was stopped too early")
	}
	s.Expire(begin.Add(5 * time.Second))
	st := Step(s, begin.Add(5*time.Second)).Status
	if st.Phase != corev1.PodFailed || st.Reason != "DeadlineExceeded" || st.Message == "" {
		t.Fatalf("status %+v", st)
	}
	next := p.DeepCopy()
	next.Status = st
	again := New(next, "192.0.2.9", nil, begin.Add(time.Minute))
	if got := Step(again, begin.Add(time.Minute)).Status; got.Phase != corev1.PodFailed || got.Reason != "DeadlineExceeded" {
		t.Errorf("after a restart: %+v", got)
	}
}
