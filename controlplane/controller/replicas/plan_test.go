package replicas

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pod(name, node string, with ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"a": "b"}, CreationTimestamp: metav1.NewTime(begin)}}
	p.Spec.NodeName = node
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(begin)}}
	for _, f := range with {
		f(p)
	}
	return p
}

func pending(p *corev1.Pod) { p.Status.Phase, p.Status.Conditions = corev1.PodPending, nil }
func unready(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func younger(p *corev1.Pod) {
	p.CreationTimestamp = metav1.NewTime(begin.Add(time.Hour))
	p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(begin.Add(time.Hour))
}
func cheap(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} }

func TestVictims(t *testing.T) {
	for name, tt := range map[string]struct {
		pods []*corev1.Pod
		n    int
		want []string
	}{
		"without a node first": {[]*corev1.Pod{pod("a", "n", pending), pod("b", "", pending)}, 1, []string{"b"}},
		"pending before ready": {[]*corev1.Pod{pod("a", "n"), pod("b", "n", pending)}, 1, []string{"b"}},
		"not ready first":      {[]*corev1.Pod{pod("a", "n"), pod("b", "n", unready)}, 1, []string{"b"}},
		"cheap first":          {[]*corev1.Pod{pod("a", "n", younger), pod("b", "n", cheap)}, 1, []string{"b"}},
		"younger first":        {[]*corev1.Pod{pod("a", "n"), pod("b", "n", younger)}, 1, []string{"b"}},
		"crowded before young": {[]*corev1.Pod{pod("a", "n"), pod("b", "n"), pod("c", "m", younger)}, 1, []string{"a"}},
		"the crowd thins":      {[]*corev1.Pod{pod("a", "n"), pod("b", "n"), pod("c", "m"), pod("d", "m")}, 2, []string{"a", "c"}},
		"no more than there":   {[]*corev1.Pod{pod("a", "n")}, 3, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range Victims(tt.pods, tt.n) {
				got = append(got, p.Name)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("victims (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	ago := func(ds ...time.Duration) (out []time.Time) {
		for _, d := range ds {
			out = append(out, begin.Add(-d))
		}
		return out
	}
	for name, tt := range map[string]struct {
		desired        int
		pods           []*corev1.Pod
		known          known
		deleted        bool
		create, delete int
		again          time.Duration
	}{
		"missing":             {desired: 3, pods: []*corev1.Pod{pod("a", "n")}, create: 2},
		"created, not seen":   {desired: 3, pods: []*corev1.Pod{pod("a", "n")}, known: known{creating: 2}},
		"deleted, not seen":   {desired: 1, pods: []*corev1.Pod{pod("a", "n"), pod("b", "n")}, known: known{deleting: map[types.UID]bool{"b": true}}},
		"too many":            {desired: 0, pods: []*corev1.Pod{pod("a", "n"), pod("b", "n")}, delete: 2},
		"waits for the young": {desired: 1, pods: []*corev1.Pod{pod("a", "n")}, known: known{creating: 1}},
		"ended ones are none": {desired: 1, pods: []*corev1.Pod{pod("a", "n", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })}, create: 1},
		"after a failure":     {desired: 1, known: known{ends: ago(200 * time.Millisecond)}, again: 800 * time.Millisecond},
		"after four":          {desired: 1, known: known{ends: ago(3*time.Second, 60*time.Second, 70*time.Second, 80*time.Second)}, again: 5 * time.Second},
		"long after":          {desired: 1, known: known{ends: ago(2 * time.Minute)}, create: 1},
		"bounded":             {desired: 2000, create: burst},
		"being deleted":       {desired: 3, deleted: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.set.desired = tt.desired
			if tt.deleted {
				w.set.obj.SetDeletionTimestamp(&metav1.Time{Time: begin})
			}
			p := decide(w.set, tt.pods, tt.known, begin)
			if p.create != tt.create || len(p.delete) != tt.delete || p.again != tt.again {
				t.Errorf("creates %d, deletes %d, looks again after %v: want %d, %d, %v", p.create, len(p.delete), p.again, tt.create, tt.delete, tt.again)
			}
		})
	}
}

func TestAvailableAfterMinReady(t *testing.T) {
	w := newWorld()
	w.set.desired, w.set.minReady = 2, 10*time.Second
	late := pod("b", "n", func(p *corev1.Pod) {
		p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(begin.Add(-4 * time.Second))
	})
	old := pod("a", "n", func(p *corev1.Pod) {
		p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(begin.Add(-time.Minute))
	})
	p := decide(w.set, []*corev1.Pod{old, late}, known{}, begin)
	want := status{replicas: 2, labeled: 2, ready: 2, available: 1}
	if p.status != want || p.again != 6*time.Second {
		t.Errorf("status %+v, again after %v: want %+v, 6s", p.status, p.again, want)
	}
}
