package history

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// wrong is an api.Objects with a fault.
type wrong struct {
	api.Objects
	fault string

	mu    sync.Mutex
	calls int
	old   map[string]api.Object
}

// now says whether it is time for the fault.
func (w *wrong) now(fault string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fault == fault {
		w.calls++
	}
	return w.fault == fault && w.calls%10 == 0
}

func (w *wrong) Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	got, err := w.Objects.Get(ctx, r, namespace, name)
	late := w.now("stale reads")
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.old[name]; late && old != nil {
		return old, nil
	}
	if err == nil {
		w.old[name] = got
	}
	return got, err
}

func (w *wrong) Update(ctx context.Context, obj api.Object, o api.UpdateOptions) (api.Object, error) {
	if w.fault == "versions that are not looked at" {
		obj = obj.DeepCopyObject().(api.Object)
		obj.SetResourceVersion("")
	}
	lost := w.now("lost writes")
	got, err := w.Objects.Update(ctx, obj, o)
	switch {
	case err != nil:
	case lost: // it is put back
		if back, e := w.Objects.Get(ctx, api.ConfigMaps, Namespace, obj.GetName()); e == nil {
			back = back.DeepCopyObject().(api.Object)
			back.(*corev1.ConfigMap).Data["v"] = "another"
			back.SetResourceVersion("")
			_, _ = w.Objects.Update(ctx, back, o)
		}
	case w.now("writes that are done again"):
		again := obj.DeepCopyObject().(api.Object)
		again.SetResourceVersion("")
		again.SetLabels(map[string]string{"again": got.GetResourceVersion()}) // as the same again would be no change
		_, _ = w.Objects.Update(ctx, again, o)
	case w.now("refusals of what was done"):
		return nil, apierrors.NewConflict(api.ConfigMaps.GR(), obj.GetName(), nil)
	}
	return got, err
}

func (w *wrong) Delete(ctx context.Context, r *api.Resource, namespace, name string, o api.DeleteOptions) (api.Object, error) {
	if w.now("deletions that are not carried out") {
		return w.Objects.Get(ctx, r, namespace, name)
	}
	return w.Objects.Delete(ctx, r, namespace, name, o)
}

func recorded(t *testing.T, fault string) (*Log, []Event) {
	t.Helper()
	o := &wrong{Objects: memory.New(memory.Config{}), fault: fault, old: map[string]api.Object{}}
	ns, err := o.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f, done := Follow(ctx, o.Objects, ns.GetResourceVersion())
	defer done()
	defer cancel()
	var l Log
	Load{Objects: []api.Objects{o}, Clients: 6, Keys: 4, Each: 30, Most: 1500}.Run(ctx, &l)
	end, err := o.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "end"}})
	if err != nil {
		t.Fatal(err)
	}
	events, err := f.Until(t.Context(), revision(end))
	if err != nil {
		t.Fatal(err)
	}
	return &l, events[:len(events)-1]
}

// The reference is right, and each fault is found by what it is said to be found by.
func TestCheckers(t *testing.T) {
	for fault, by := range map[string]struct{ order, account bool }{
		"":                                   {},
		"stale reads":                        {order: true},
		"versions that are not looked at":    {order: true},
		"lost writes":                        {order: true, account: true},
		"writes that are done again":         {order: true, account: true},
		"refusals of what was done":          {order: true, account: true},
		"deletions that are not carried out": {order: true},
	} {
		t.Run("with "+fault, func(t *testing.T) {
			l, events := recorded(t, fault)
			if err := l.Check(20 * time.Second); (err != nil) != by.order {
				t.Errorf("the order: %v, want an error: %t", err, by.order)
			}
			if err := l.Accounts(events); (err != nil) != by.account {
				t.Errorf("the accounts: %v, want an error: %t", err, by.account)
			}
		})
	}
}

// What became of a write that nobody was told of is known by what happened.
func TestLearn(t *testing.T) {
	ask := func(l *Log, call, back int64, q Question, a Answer) {
		q.Key = "k"
		l.add(porcupine.Operation{Input: q, Output: a, Call: call, Return: back})
	}
	truth := []Event{
		{Rev: 3, Type: api.Added, Key: "k", Value: "made"},
		{Rev: 5, Type: api.Modified, Key: "k", Value: "lost"},
		{Rev: 8, Type: api.Modified, Key: "k", Value: "last"},
	}
	for name, c := range map[string]struct {
		read Answer // after all others
		ok   bool
	}{
		"the last write":           {Answer{Fate: Done, Value: "last", Rev: 8}, true},
		"one before it":            {Answer{Fate: Done, Value: "lost", Rev: 5}, false},
		"one that was never there": {Answer{Fate: Done, Value: "never", Rev: 9}, false},
		"a deletion":               {Answer{Fate: Missing}, false},
	} {
		var l Log
		ask(&l, 1, 2, Question{Verb: Create, Value: "made"}, Answer{Fate: Done, Value: "made", Rev: 3})
		ask(&l, 3, forever, Question{Verb: Update, Value: "lost"}, Answer{Fate: Unknown})
		for i := range 40 { // none of them took place: 40 of unknown fate could not be judged
			ask(&l, 4+int64(i), forever, Question{Verb: Update, Value: "never"}, Answer{Fate: Unknown})
			ask(&l, 4+int64(i), forever, Question{Verb: Delete}, Answer{Fate: Unknown})
		}
		ask(&l, 50, 60, Question{Verb: Update, Value: "last"}, Answer{Fate: Done, Value: "last", Rev: 8})
		ask(&l, 70, 80, Question{Verb: Get}, c.read)
		l.Learn(truth)
		if ops := l.Ops(); len(ops) != 4 || ops[1].Return != 60 {
			t.Fatalf("%s: left are %v", name, ops)
		}
		if err := l.Check(20 * time.Second); (err == nil) != c.ok {
			t.Errorf("%s: %v, want none: %t", name, err, c.ok)
		}
	}
}

// A watch that leaves something out, tells it twice, or in another order or form is found.
func TestSame(t *testing.T) {
	var truth []Event
	for i := range 5 {
		truth = append(truth, Event{Rev: int64(i + 3), Type: api.Modified, Key: "a", Value: strconv.Itoa(i)})
	}
	if err := Same(truth, truth); err != nil {
		t.Error(err)
	}
	changed := append([]Event{}, truth...)
	changed[2].Value = "x"
	for what, told := range map[string][]Event{
		"less at the end": truth[:4], "more": append(append([]Event{}, truth...), truth[4]), "a gap": append(append([]Event{}, truth[:2]...), truth[3:]...),
		"twice": append(append([]Event{}, truth[:3]...), truth[2:]...), "another order": {truth[1], truth[0], truth[2], truth[3], truth[4]}, "another value": changed,
	} {
		if Same(truth, told) == nil {
			t.Errorf("%s is not found", what)
		}
	}
}
