package replicas

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a store whose events reach the mirror late.
type world struct {
	set    set
	store  map[string]*corev1.Pod
	mirror map[string]*corev1.Pod
	events []event
	ledger *ledger
	n      int
}

type event struct {
	pod  *corev1.Pod
	gone bool
}

func newWorld() *world {
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "s", UID: "s"}}
	rs.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	rs.Spec.Template.Labels = map[string]string{"a": "b"}
	s, _ := ofReplicaSet(rs)
	return &world{set: s, store: map[string]*corev1.Pod{}, mirror: map[string]*corev1.Pod{}, ledger: newLedger()}
}

func (w *world) put(p *corev1.Pod) {
	w.store[p.Name] = p
	w.events = append(w.events, event{pod: p})
}

func (w *world) drop(name string) {
	w.events = append(w.events, event{pod: w.store[name], gone: true})
	delete(w.store, name)
}

// deliver brings one event to the mirror and, as its handler does, to the ledger.
func (w *world) deliver() bool {
	if len(w.events) == 0 {
		return false
	}
	e := w.events[0]
	w.events = w.events[1:]
	if e.gone {
		delete(w.mirror, e.pod.Name)
	} else {
		w.mirror[e.pod.Name] = e.pod
	}
	w.ledger.seen("s", e.pod.Name, e.pod.UID, e.gone || e.pod.DeletionTimestamp != nil)
	return true
}

func (w *world) active() (n int) {
	for _, p := range w.store {
		if p.DeletionTimestamp == nil {
			n++
		}
	}
	return n
}

// reconcile is what the controller does, with a store that answers as how says.
func (w *world) reconcile(how func() int) (acted bool) {
	there := func(uid types.UID) bool {
		for _, p := range w.mirror {
			if p.UID == uid {
				return true
			}
		}
		return false
	}
	notes := w.ledger.open("s", begin, there)
	var pods []*corev1.Pod
	for _, p := range w.mirror {
		pods = append(pods, p)
	}
	plan := decide(w.set, pods, notes, begin)
	for range plan.create {
		w.create(how())
	}
	for _, p := range plan.delete {
		w.ledger.delete("s", p.UID)
		switch at := w.store[p.Name]; {
		case at == nil || at.UID != p.UID:
		case how() == 0:
			next := at.DeepCopy()
			next.DeletionTimestamp = &metav1.Time{Time: begin}
			w.put(next)
		default:
			w.ledger.notDeleted("s", p.UID)
		}
	}
	return plan.create > 0 || len(plan.delete) > 0
}

func (w *world) create(how int) {
	name := w.ledger.name("s", begin, func() string { w.n++; return fmt.Sprintf("p%d", w.n) })
	if w.store[name] != nil { // AlreadyExists
		if p := w.mirror[name]; p != nil {
			w.ledger.seen("s", name, p.UID, false)
		}
		return
	}
	if how == 0 || how == 2 {
		w.n++
		w.put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(fmt.Sprintf("u%d", w.n)), Labels: map[string]string{"a": "b"}}})
	}
	if how != 0 { // refused, or lost on the way there (3) or back (2)
		w.ledger.notCreated("s", name, how >= 2)
	}
}

// However late the mirror is and whatever the store answers, there are never
// more pods than asked for but those that a lower number has yet to end, and
// never fewer because of a deletion that was not wanted.
func TestLateMirrorNeverMultiplies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		how := func() int { return rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3}).Draw(t, "store") }
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			before := w.active()
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				w.set.desired = rapid.IntRange(0, 6).Draw(t, "desired")
			case 1, 2:
				w.reconcile(how)
				after := w.active()
				if after > before && after > w.set.desired {
					t.Fatalf("%d pods after %d, %d are wanted", after, before, w.set.desired)
				}
				if after < before && after < w.set.desired {
					t.Fatalf("%d pods are left of %d, %d are wanted", after, before, w.set.desired)
				}
			case 3, 4:
				w.deliver()
			case 5: // a pod goes, and that is known: what is chosen meanwhile nobody can know
				if names := slices.Sorted(maps.Keys(w.store)); len(names) > 0 {
					w.drop(rapid.SampledFrom(names).Draw(t, "goes"))
				}
				for w.deliver() {
				}
			}
		}
		for i := 0; ; i++ {
			for w.deliver() {
			}
			for name, p := range w.store {
				if p.DeletionTimestamp != nil {
					w.drop(name)
				}
			}
			if !w.reconcile(func() int { return 0 }) && len(w.events) == 0 {
				break
			}
			if i > 50 {
				t.Fatal("does not settle")
			}
		}
		if n := w.active(); n != w.set.desired {
			t.Fatalf("ends with %d pods, %d are wanted", n, w.set.desired)
		}
	})
}
