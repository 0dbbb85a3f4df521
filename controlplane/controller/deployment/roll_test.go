package deployment

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a deployment, its sets, and their pods: true is an available one.
type world struct {
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	pods map[types.UID][]bool
	now  time.Time
	n    int
	last plan
}

func newWorld(replicas, surge, unavailable int) *world {
	a, b, n := intstr.FromInt32(int32(surge)), intstr.FromInt32(int32(unavailable)), int32(replicas)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web", UID: "d", Generation: 1}}
	d.Spec = appsv1.DeploymentSpec{
		Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		Strategy: appsv1.DeploymentStrategy{
			Type:          appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &a, MaxUnavailable: &b},
		},
	}
	w := &world{d: d, pods: map[types.UID][]bool{}, now: begin}
	w.template("1")
	return w
}

func (w *world) template(v string) {
	w.d.Spec.Template = corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web:" + v}}},
	}
	w.d.Generation++
}

func (w *world) replicas(n int) {
	c := int32(n)
	w.d.Spec.Replicas = &c
	w.d.Generation++
}

func (w *world) members() []*member {
	var out []*member
	for _, rs := range w.sets {
		m := &member{rs: rs, all: len(w.pods[rs.UID]), pods: len(w.pods[rs.UID])}
		for _, ok := range w.pods[rs.UID] {
			if ok {
				m.ready++
				m.available++
			}
		}
		out = append(out, m)
	}
	return out
}

// step lets the deployment controller act; it reports whether it did anything.
func (w *world) step(t interface{ Fatal(...any) }) bool {
	p, err := decide(w.d, w.members(), w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.last = p
	if p.create != nil {
		w.n++
		p.create.UID = types.UID(fmt.Sprintf("rs%d", w.n))
		p.create.CreationTimestamp = metav1.NewTime(begin.Add(time.Duration(w.n) * time.Second))
		w.sets = append(w.sets, p.create)
	}
	for _, u := range p.update {
		i := slices.IndexFunc(w.sets, func(rs *appsv1.ReplicaSet) bool { return rs.UID == u.UID })
		w.sets[i] = u
	}
	for _, x := range p.delete {
		w.sets = slices.DeleteFunc(w.sets, func(rs *appsv1.ReplicaSet) bool { return rs.UID == x.UID })
	}
	w.d.Status = p.status
	return p.create != nil || len(p.update)+len(p.delete) > 0
}

// settle lets one replica set controller act: unavailable pods go first.
func (w *world) settle(rs *appsv1.ReplicaSet) bool {
	ps := w.pods[rs.UID]
	want := replicas(rs.Spec.Replicas)
	switch {
	case len(ps) < want:
		w.pods[rs.UID] = append(slices.Clone(ps), make([]bool, want-len(ps))...)
	case len(ps) > want:
		ps = slices.Clone(ps)
		slices.SortFunc(ps, func(a, b bool) int {
			switch {
			case a == b:
				return 0
			case a:
				return -1
			default:
				return 1
			}
		})
		w.pods[rs.UID] = ps[:want]
	default:
		return false
	}
	return true
}

func (w *world) availableOf(rs *appsv1.ReplicaSet) (n int) {
	for _, ok := range w.pods[rs.UID] {
		if ok {
			n++
		}
	}
	return n
}

func (w *world) available() (n int) {
	for _, rs := range w.sets {
		n += w.availableOf(rs)
	}
	return n
}

func (w *world) count() (n int) {
	for _, ps := range w.pods {
		n += len(ps)
	}
	return n
}

func (w *world) asked() (n int) {
	for _, rs := range w.sets {
		n += replicas(rs.Spec.Replicas)
	}
	return n
}

func (w *world) settled() bool {
	for _, rs := range w.sets {
		if len(w.pods[rs.UID]) != replicas(rs.Spec.Replicas) {
			return false
		}
	}
	return true
}

// shrunk reports whether no set still has to end pods.
func (w *world) shrunk() bool {
	for _, rs := range w.sets {
		if len(w.pods[rs.UID]) > replicas(rs.Spec.Replicas) {
			return false
		}
	}
	return true
}

// Whatever the order in which things happen, a rolling update never takes an
// available pod below what is promised, never asks for more than the surge
// allows, and comes to an end.
func TestRollingInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.IntRange(0, 8).Draw(t, "replicas")
		surge := rapid.IntRange(0, 3).Draw(t, "surge")
		unavailable := rapid.IntRange(0, 3).Draw(t, "unavailable")
		w := newWorld(want, surge, unavailable)
		for range rapid.IntRange(0, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				version := rapid.IntRange(1, 4).Draw(t, "version")
				w.template(strconv.Itoa(version))
			case 1:
				if w.settled() {
					w.replicas(rapid.IntRange(0, 8).Draw(t, "replicas"))
				}
			case 2, 3, 4:
				before := w.asked()
				w.step(t)
				s, _ := limits(w.d)
				if after := w.asked(); after > before && after > replicas(w.d.Spec.Replicas)+s {
					t.Fatalf("asks for %d pods, %d and a surge of %d are allowed: %s", after, *w.d.Spec.Replicas, s, w.last.why)
				}
			case 5, 6, 7:
				if len(w.sets) == 0 {
					continue
				}
				rs := w.sets[rapid.IntRange(0, len(w.sets)-1).Draw(t, "set")]
				before, pods := w.available(), w.count()
				w.settle(rs)
				s, u := limits(w.d)
				if n := w.count(); n > pods && n > replicas(w.d.Spec.Replicas)+s {
					t.Fatalf("there are %d pods, %d and a surge of %d are allowed", n, *w.d.Spec.Replicas, s)
				}
				if after := w.available(); after < before && after < replicas(w.d.Spec.Replicas)-u {
					t.Fatalf("%d pods are available after %d; %d less %d are promised", after, before, *w.d.Spec.Replicas, u)
				}
			case 8:
				// One pod becomes available; not one that was chosen to end while
				// it was not: that race nobody can win.
				for _, rs := range w.sets {
					i := slices.Index(w.pods[rs.UID], false)
					if i >= 0 && w.availableOf(rs) < replicas(rs.Spec.Replicas) {
						w.pods[rs.UID][i] = true
						break
					}
				}
			case 9:
				// One pod fails; not while another is on its way out, for the
				// same reason.
				for _, rs := range w.sets {
					if !w.shrunk() {
						break
					}
					if i := slices.Index(w.pods[rs.UID], true); i >= 0 && rapid.Bool().Draw(t, "this") {
						w.pods[rs.UID][i] = false
						break
					}
				}
			}
		}
		finish(t, w)
	})
}

// finish lets everything go well and requires the end to be reached.
func finish(t interface {
	Fatal(...any)
	Fatalf(string, ...any)
}, w *world,
) {
	for i := 0; ; i++ {
		moved := w.step(t)
		for _, rs := range w.sets {
			moved = w.settle(rs) || moved
			for i, ok := range w.pods[rs.UID] {
				moved = moved || !ok
				w.pods[rs.UID][i] = true
			}
			rs.Status.Replicas, rs.Status.ObservedGeneration = *rs.Spec.Replicas, rs.Generation
		}
		if !moved {
			break
		}
		if i > 200 {
			t.Fatal("does not come to an end: " + w.last.why)
		}
	}
	s := newState(w.d, w.members())
	want := replicas(w.d.Spec.Replicas)
	if s.cur == nil || s.cur.spec() != want || w.asked() != want {
		t.Fatalf("ends with %d pods in all, want %d of the new template", w.asked(), want)
	}
	if !complete(w.d, &w.d.Status) {
		t.Fatalf("status says it is not complete: %+v", w.d.Status)
	}
}

func TestRollsOneByOne(t *testing.T) {
	w := newWorld(3, 1, 0)
	finish(t, w)
	w.template("2")
	var got []string
	for range 40 {
		if w.step(t) {
			var s []string
			for _, rs := range w.sets {
				s = append(s, strconv.Itoa(replicas(rs.Spec.Replicas)))
			}
			got = append(got, fmt.Sprint(s))
			continue
		}
		for _, rs := range w.sets {
			w.settle(rs)
			for i := range w.pods[rs.UID] {
				w.pods[rs.UID][i] = true
			}
		}
	}
	want := []string{"[3 1]", "[2 1]", "[2 2]", "[1 2]", "[1 3]", "[0 3]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if rev := w.sets[1].Annotations[revisionAnnotation]; rev != "2" {
		t.Errorf("revision %q, want 2", rev)
	}
}

func TestRecreateWaitsForTheOldToGo(t *testing.T) {
	w := newWorld(2, 0, 0)
	w.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	finish(t, w)
	w.template("2")
	w.step(t)
	w.step(t)
	if len(w.sets) != 1 || *w.sets[0].Spec.Replicas != 0 {
		t.Fatalf("%d sets, the old with %d: want the old one at 0 alone", len(w.sets), *w.sets[0].Spec.Replicas)
	}
	w.settle(w.sets[0])
	finish(t, w)
}

func TestZeroReplicasSwapsSets(t *testing.T) {
	w := newWorld(0, 1, 0)
	finish(t, w)
	w.template("2")
	finish(t, w)
	if len(w.sets) != 2 || *w.sets[1].Spec.Replicas != 0 || len(w.pods[w.sets[1].UID]) != 0 {
		t.Fatalf("want a second set with no replicas, have %d sets", len(w.sets))
	}
}

func TestRollback(t *testing.T) {
	w := newWorld(1, 1, 0)
	finish(t, w)
	w.template("2")
	finish(t, w)
	w.template("1")
	finish(t, w)
	if len(w.sets) != 2 {
		t.Fatalf("%d sets, want the first one used again", len(w.sets))
	}
	a := w.sets[0].Annotations
	if a[revisionAnnotation] != "3" || a[historyAnnotation] != "1" {
		t.Errorf("revision %q after %q, want 3 after 1", a[revisionAnnotation], a[historyAnnotation])
	}
}

func TestHistoryIsLimited(t *testing.T) {
	w := newWorld(1, 1, 0)
	keep := int32(2)
	w.d.Spec.RevisionHistoryLimit = &keep
	for v := range 6 {
		w.template(strconv.Itoa(v))
		finish(t, w)
	}
	var got []string
	for _, rs := range w.sets {
		got = append(got, rs.Annotations[revisionAnnotation])
	}
	if diff := cmp.Diff([]string{"4", "5", "6"}, got); diff != "" {
		t.Errorf("revisions kept (-want +got):\n%s", diff)
	}
}

func TestPausedKeepsStillAndScales(t *testing.T) {
	w := newWorld(2, 1, 0)
	finish(t, w)
	w.d.Spec.Paused = true
	w.template("2")
	w.replicas(4)
	w.step(t)
	if len(w.sets) != 1 || *w.sets[0].Spec.Replicas != 4 {
		t.Fatalf("%d sets, the first with %d replicas: want one with 4", len(w.sets), *w.sets[0].Spec.Replicas)
	}
	if c := condition(&w.d.Status, appsv1.DeploymentProgressing); c == nil || c.Reason != "DeploymentPaused" {
		t.Errorf("Progressing is %+v, want DeploymentPaused", c)
	}
	w.d.Spec.Paused = false
	finish(t, w)
}

func TestScaleDuringRolloutIsShared(t *testing.T) {
	w := newWorld(10, 2, 2)
	finish(t, w)
	w.template("2")
	w.step(t) // 10 old, 2 new
	w.settle(w.sets[0])
	w.settle(w.sets[1])
	w.replicas(20)
	w.step(t)
	if got := w.asked(); got != 22 {
		t.Errorf("asks for %d pods, want 20 and a surge of 2", got)
	}
	if a, b := *w.sets[0].Spec.Replicas, *w.sets[1].Spec.Replicas; a < b || b < 3 {
		t.Errorf("old %d, new %d: both grow in proportion", a, b)
	}
	finish(t, w)
}

func TestDeadline(t *testing.T) {
	w := newWorld(1, 1, 0)
	finish(t, w)
	limit := int32(60)
	w.d.Spec.ProgressDeadlineSeconds = &limit
	w.template("2")
	w.step(t)
	for _, rs := range w.sets {
		w.settle(rs)
	}
	w.now = w.now.Add(time.Second)
	w.step(t)
	if w.last.again <= 0 || w.last.again > time.Minute {
		t.Fatalf("looks again after %v, want within the deadline", w.last.again)
	}
	w.now = w.now.Add(2 * time.Minute)
	w.step(t)
	c := condition(&w.d.Status, appsv1.DeploymentProgressing)
	if c.Status != corev1.ConditionFalse || c.Reason != "ProgressDeadlineExceeded" {
		t.Errorf("Progressing is %s %s, want False ProgressDeadlineExceeded", c.Status, c.Reason)
	}
	if a := condition(&w.d.Status, appsv1.DeploymentAvailable); a.Status != corev1.ConditionTrue {
		t.Errorf("Available is %s while the old pod serves", a.Status)
	}
}
