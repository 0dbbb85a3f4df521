package stateful

import (
	"slices"
	"testing"
	"time"

	"github.com/podsnap/podsnap/controlplane/podstate"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func drawSet(t *rapid.T) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "db", UID: "set"}}
	s.Spec.Replicas = new(int32(rapid.IntRange(0, 5).Draw(t, "replicas")))
	s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: int32(rapid.IntRange(0, 2).Draw(t, "start"))}
	s.Spec.PodManagementPolicy = rapid.SampledFrom([]appsv1.PodManagementPolicyType{appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement}).Draw(t, "order")
	s.Spec.UpdateStrategy.Type = rapid.SampledFrom([]appsv1.StatefulSetUpdateStrategyType{appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType}).Draw(t, "strategy")
	if s.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{
			Partition: new(int32(rapid.IntRange(0, 6).Draw(t, "partition"))), MaxUnavailable: new(intstr.FromInt32(int32(rapid.IntRange(1, 3).Draw(t, "missing")))),
		}
	}
	return s
}

func drawPods(t *rapid.T, s *appsv1.StatefulSet) []*corev1.Pod {
	var out []*corev1.Pod
	for ordinal := range 9 {
		if !rapid.Bool().Draw(t, "there") {
			continue
		}
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: podName(s, ordinal), Labels: map[string]string{}}}
		p.Labels[appsv1.StatefulSetRevisionLabel] = rapid.SampledFrom([]string{"old", "new"}).Draw(t, "revision")
		p.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodRunning, corev1.PodFailed}).Draw(t, "phase")
		if p.Status.Phase == corev1.PodRunning && rapid.Bool().Draw(t, "ready") {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		if rapid.IntRange(0, 3).Draw(t, "ending") == 0 {
			p.DeletionTimestamp = &metav1.Time{Time: epoch}
		}
		out = append(out, p)
	}
	return out
}

// Whatever there is: no pod is made while there is one of its name, an ordered set does
// one thing at a time and in order, and an update keeps to its partition and to how many
// may be missing.
func TestDecideKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSet(t)
		pods := drawPods(t, s)
		p := decide(s, "old", "new", pods, epoch)
		at := map[int]*corev1.Pod{}
		for _, o := range pods {
			n, _ := ordinalOf(s, o.Name)
			at[n] = o
		}
		serves := func(o *corev1.Pod) bool { return o != nil && podstate.Active(o) && podstate.Ready(o) }
		ordered := s.Spec.PodManagementPolicy == appsv1.OrderedReadyPodManagement
		before := func(ordinal int) { // those that come first are there and serve
			for n := start(s); ordered && n < ordinal; n++ {
				if !serves(at[n]) {
					t.Fatalf("%d is touched while %d does not serve", ordinal, n)
				}
			}
		}
		for _, b := range p.create {
			if at[b.ordinal] != nil || !inRange(s, b.ordinal) {
				t.Fatalf("%d is made, in range %v, while there is %v", b.ordinal, inRange(s, b.ordinal), at[b.ordinal])
			}
			before(b.ordinal)
		}
		updated := 0
		for _, o := range p.delete {
			n, _ := ordinalOf(s, o.Name)
			switch {
			case o.DeletionTimestamp != nil:
				t.Fatalf("%s is deleted twice", o.Name)
			case !inRange(s, n):
				before(start(s) + count(s))
			case podstate.Ended(o):
				before(n)
			default:
				updated++
				if revisionOf(o) == "new" || n < start(s)+int(*s.Spec.UpdateStrategy.RollingUpdate.Partition) {
					t.Fatalf("%s of revision %s is replaced", o.Name, revisionOf(o))
				}
			}
		}
		if ordered && len(p.create)+len(p.delete) > max(1, updated) || updated > 0 && updated > most(s) {
			t.Fatalf("%d are made and %d deleted at once, %d of them for the update", len(p.create), len(p.delete), updated)
		}
	})
}

// From whatever there is a set comes to rest with what was asked for.
func TestDecideArrives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSet(t)
		pods := drawPods(t, s)
		for range 100 {
			p := decide(s, "old", "new", pods, epoch)
			for _, o := range p.delete {
				o.DeletionTimestamp = &metav1.Time{Time: epoch}
			}
			pods = slices.DeleteFunc(pods, func(o *corev1.Pod) bool { return o.DeletionTimestamp != nil })
			for _, b := range p.create {
				pods = append(pods, podFor(s, &corev1.PodTemplateSpec{}, b.revision, b.ordinal))
			}
			for _, o := range pods {
				if !podstate.Ended(o) {
					o.Status.Phase, o.Status.Conditions = corev1.PodRunning, []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
				}
			}
		}
		if p := decide(s, "old", "new", pods, epoch); len(p.create)+len(p.delete) > 0 || int(p.status.ReadyReplicas) != count(s) {
			t.Fatalf("no rest: %d to make, %d to delete, status %+v", len(p.create), len(p.delete), p.status)
		}
		for _, o := range pods {
			n, _ := ordinalOf(s, o.Name)
			r := s.Spec.UpdateStrategy.RollingUpdate
			if r != nil && n >= start(s)+int(*r.Partition) && revisionOf(o) != "new" {
				t.Fatalf("%s is of revision %s", o.Name, revisionOf(o))
			}
		}
	})
}

func TestOrdinalOf(t *testing.T) {
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}}
	for name, want := range map[string]int{"db-0": 0, "db-12": 12, "db-": -1, "db-01": -1, "db-+1": -1, "db--1": -1, "dbx-1": -1, "db-1-1": -1, "db-99999999999": -1, "db": -1} {
		if got, ok := ordinalOf(s, name); ok != (want >= 0) || ok && got != want {
			t.Errorf("%s: %d, %v; want %d", name, got, ok, want)
		}
	}
}

// kubectl undoes a rollout by sending what a revision holds as a patch.
func TestRevisionHoldsItsTemplate(t *testing.T) {
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "db", Annotations: map[string]string{"why": "x", corev1.LastAppliedConfigAnnotation: "{}"}}}
	s.Spec.Template.Labels = map[string]string{"a": "b"}
	s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "i:1", Env: []corev1.EnvVar{{Name: "A", Value: "b"}}}}
	r, err := newRevision(s, 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	other, err := newRevision(s, 3, 1)
	if err != nil || other.Name == r.Name {
		t.Errorf("after a collision the name is %s again, %v", other.Name, err)
	}
	if matching([]*appsv1.ControllerRevision{r}, &s.Spec.Template) != r || r.Revision != 3 || len(r.Annotations) != 1 {
		t.Errorf("the revision is %+v", r)
	}
	s.Spec.Template.Spec.Containers[0].Env = nil
	if matching([]*appsv1.ControllerRevision{r}, &s.Spec.Template) != nil {
		t.Error("another template has the same revision")
	}
}
