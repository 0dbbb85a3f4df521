package job

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/podsnap/podsnap/controlplane/podstate"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// world is a store whose events reach the mirror late, with a controller that may
// be interrupted after any of its writes.
type world struct {
	job    *batchv1.Job
	store  map[string]*corev1.Pod
	mirror map[string]*corev1.Pod
	events []change
	unseen *unseen
	now    time.Time
	n      int

	ended map[types.UID]corev1.PodPhase // pods that came to an end which has to be counted
	most  int                           // active pods at a time
}

type change struct {
	pod  *corev1.Pod
	gone bool
}

func newWorld(spec batchv1.JobSpec) *world {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "j", UID: "j"}, Spec: spec}
	return &world{
		job: j, store: map[string]*corev1.Pod{}, mirror: map[string]*corev1.Pod{}, unseen: newUnseen(),
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), ended: map[types.UID]corev1.PodPhase{},
	}
}

func (w *world) put(p *corev1.Pod) {
	if p.DeletionTimestamp != nil && !tracked(p) {
		delete(w.store, p.Name)
		w.events = append(w.events, change{p, true})
		return
	}
	w.store[p.Name] = p
	w.events = append(w.events, change{p, false})
}

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
	return true
}

// restart is another controller, which begins with what is stored.
func (w *world) restart() {
	w.mirror, w.events, w.unseen = map[string]*corev1.Pod{}, nil, newUnseen()
	maps.Copy(w.mirror, w.store)
}

func sorted(m map[string]*corev1.Pod) []*corev1.Pod {
	var out []*corev1.Pod
	for _, p := range m {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return out
}

// round is what reconcile does; it stops after so many writes.
func (w *world) round(writes int) {
	left, doubtful := w.unseen.look("j", w.now, func(name string) (types.UID, bool) {
		if p := w.mirror[name]; p != nil {
			return p.UID, p.DeletionTimestamp != nil
		}
		return "", false
	})
	for _, name := range doubtful {
		if w.store[name] == nil {
			w.unseen.notCreated("j", name)
		}
	}
	p := decide(w.job, sorted(w.mirror), left, w.now)
	step := func() bool { writes--; return writes >= 0 }
	if !step() {
		return
	}
	w.job = w.job.DeepCopy()
	w.job.Status = p.status
	for _, pod := range p.release {
		if !step() {
			return
		}
		w.untrack(pod, func(*corev1.Pod) bool { return true })
	}
	for _, pod := range p.retire {
		if !step() {
			return
		}
		if w.untrack(pod, func(o *corev1.Pod) bool { return !podstate.Ended(o) }) {
			delete(w.ended, pod.UID)
			w.remove(pod)
		}
	}
	for _, pod := range p.end {
		if !step() {
			return
		}
		w.remove(pod)
	}
	for _, c := range p.create {
		if !step() {
			return
		}
		w.n++
		pod := podOf(w.job, c)
		pod.Name, pod.UID, pod.CreationTimestamp = fmt.Sprint("p", w.n), types.UID(fmt.Sprint("p", w.n)), metav1.NewTime(w.now.Add(time.Duration(w.n)))
		pod.Status.Phase = corev1.PodRunning
		w.unseen.create("j", pod.Name, birth{at: w.now})
		w.put(pod)
	}
	w.most = max(w.most, len(active(sorted(w.store))))
}

// untrack reports whether the pod is without the finalizer then, by this call.
func (w *world) untrack(pod *corev1.Pod, may func(*corev1.Pod) bool) bool {
	o := w.store[pod.Name]
	if o == nil || !tracked(o) || !may(o) {
		return false
	}
	o = o.DeepCopy()
	o.Finalizers = nil
	w.put(o)
	return true
}

// remove is a deletion, by whomever. The pod counts as failed from then on.
func (w *world) remove(pod *corev1.Pod) {
	o := w.store[pod.Name]
	if o == nil || o.DeletionTimestamp != nil {
		return
	}
	if tracked(o) {
		w.note(o, corev1.PodFailed)
	}
	o = o.DeepCopy()
	at := metav1.NewTime(w.now)
	o.DeletionTimestamp = &at
	w.put(o)
	w.unseen.delete("j", o.Name, o.UID)
}

func (w *world) note(p *corev1.Pod, phase corev1.PodPhase) {
	if w.ended[p.UID] == "" {
		w.ended[p.UID] = phase
	}
}

// finish ends a pod that runs.
func (w *world) finish(p *corev1.Pod, phase corev1.PodPhase) {
	if !podstate.Active(p) {
		return
	}
	w.note(p, phase)
	p = p.DeepCopy()
	p.Status.Phase = phase
	w.put(p)
}

func (w *world) count(phase corev1.PodPhase) (n int) {
	for _, p := range w.ended {
		if p == phase {
			n++
		}
	}
	return n
}

// However late the mirror is and wherever the controller is interrupted: each pod
// that has ended is counted once, and no more run than should.
func TestEachPodCountsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		completions, parallelism := int32(rapid.IntRange(1, 6).Draw(t, "completions")), int32(rapid.IntRange(1, 4).Draw(t, "parallelism"))
		mode := rapid.SampledFrom([]batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion}).Draw(t, "mode")
		policy := batchv1.TerminatingOrFailed
		w := newWorld(batchv1.JobSpec{
			Completions: &completions, Parallelism: &parallelism, CompletionMode: &mode, BackoffLimit: new(int32(50)), PodReplacementPolicy: &policy,
		})
		one := func() *corev1.Pod {
			if len(w.store) == 0 {
				return nil
			}
			return rapid.SampledFrom(sorted(w.store)).Draw(t, "pod")
		}
		t.Repeat(map[string]func(*rapid.T){
			"round":   func(*rapid.T) { w.round(1000) },
			"cut off": func(t *rapid.T) { w.round(rapid.IntRange(0, 5).Draw(t, "writes")); w.restart() },
			"deliver": func(*rapid.T) { w.deliver() },
			"later":   func(*rapid.T) { w.now = w.now.Add(20 * time.Second) },
			"succeed": func(*rapid.T) {
				if p := one(); p != nil {
					w.finish(p, corev1.PodSucceeded)
				}
			},
			"fail": func(*rapid.T) {
				if p := one(); p != nil {
					w.finish(p, corev1.PodFailed)
				}
			},
			"delete": func(*rapid.T) {
				if p := one(); p != nil && finished(&w.job.Status) == nil {
					w.remove(p)
				}
			},
		})
		w.settle(t)
		st := w.job.Status
		if c := finished(&st); c == nil || c.Type != batchv1.JobComplete {
			t.Fatalf("did not complete: %+v", st)
		}
		if w.most > int(parallelism) {
			t.Errorf("%d pods ran at a time, want at most %d", w.most, parallelism)
		}
		if mode == batchv1.IndexedCompletion {
			if st.Succeeded != completions || st.CompletedIndexes == "" {
				t.Errorf("succeeded %d of %d: %q", st.Succeeded, completions, st.CompletedIndexes)
			}
		} else if int(st.Succeeded) != w.count(corev1.PodSucceeded) {
			t.Errorf("succeeded %d, want %d", st.Succeeded, w.count(corev1.PodSucceeded))
		}
		if int(st.Failed) != w.count(corev1.PodFailed) {
			t.Errorf("failed %d, want %d: %v", st.Failed, w.count(corev1.PodFailed), w.ended)
		}
	})
}

// settle has everything come to rest, all pods succeeding.
func (w *world) settle(t *rapid.T) {
	for range 200 {
		w.round(1000)
		for w.deliver() {
		}
		if finished(&w.job.Status) != nil {
			return
		}
		w.now = w.now.Add(11 * time.Minute)
		for _, p := range sorted(w.store) {
			w.finish(p, corev1.PodSucceeded)
		}
		for w.deliver() {
		}
	}
	t.Fatalf("does not come to an end: %+v", w.job.Status)
}
