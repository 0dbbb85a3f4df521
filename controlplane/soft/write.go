package soft

import (
	"context"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// Create implements api.Objects.
func (s *Store) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	r := api.ResourceOf(obj)
	k, err := s.kind(ctx, r)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return s.Objects.Create(ctx, obj)
	}
	var admit func(api.Object) error
	if s.c.Admit != nil {
		admit = func(next api.Object) error { return s.c.Admit(ctx, rules.OpCreate, r, nil, next, "") }
	}
	next, err := rules.Create(rules.Facts{Now: time.Now(), UID: uuid.NewUUID(), Suffix: rand.String(5)}, obj, admit)
	if err != nil {
		return nil, err
	}
	if r.Namespaced {
		if err := s.admissible(ctx, next); err != nil {
			return nil, err
		}
	}
	out, err := s.commit(ctx, k, idOf(next), nil, rules.Verdict{Object: next})
	if err == nil && out == nil {
		return nil, apierrors.NewAlreadyExists(r.GR(), next.GetName())
	}
	return out, err
}

func (s *Store) admissible(ctx context.Context, next api.Object) error {
	ns, err := api.Get[*corev1.Namespace](ctx, s.Objects, api.Namespaces, "", next.GetNamespace())
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		ns = nil
	}
	return rules.Admissible(next, ns)
}

// Update implements api.Objects.
func (s *Store) Update(ctx context.Context, obj api.Object, o api.UpdateOptions) (api.Object, error) {
	r := api.ResourceOf(obj)
	k, err := s.kind(ctx, r)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return s.Objects.Update(ctx, obj, o)
	}
	return s.change(ctx, k, obj.GetNamespace(), obj.GetName(), func(old api.Object) (rules.Verdict, error) {
		return rules.Update(old, obj, o, s.admit(ctx, r, o.Subresource))
	})
}

// Patch implements api.Objects.
func (s *Store) Patch(ctx context.Context, r *api.Resource, namespace, name string, p api.Patch) (api.Object, error) {
	k, err := s.kind(ctx, r)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return s.Objects.Patch(ctx, r, namespace, name, p)
	}
	return s.change(ctx, k, namespace, name, func(old api.Object) (rules.Verdict, error) {
		obj, err := rules.Patch(old, p)
		if err != nil {
			return rules.Verdict{}, err
		}
		return rules.Update(old, obj, api.UpdateOptions{Subresource: p.Subresource}, s.admit(ctx, r, p.Subresource))
	})
}

// Delete implements api.Objects.
func (s *Store) Delete(ctx context.Context, r *api.Resource, namespace, name string, o api.DeleteOptions) (api.Object, error) {
	k, err := s.kind(ctx, r)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return s.Objects.Delete(ctx, r, namespace, name, o)
	}
	facts := rules.Facts{Now: time.Now()}
	return s.change(ctx, k, namespace, name, func(old api.Object) (rules.Verdict, error) {
		return rules.Delete(facts, old, o)
	})
}

func (s *Store) admit(ctx context.Context, r *api.Resource, subresource string) func(old, next api.Object) error {
	if s.c.Admit == nil {
		return nil
	}
	return func(old, next api.Object) error {
		return s.c.Admit(ctx, rules.OpUpdate, r, old, next, subresource)
	}
}

// change carries out what decide says about the present object, as often as
// somebody else was faster.
func (s *Store) change(ctx context.Context, k *kind, namespace, name string, decide func(api.Object) (rules.Verdict, error)) (api.Object, error) {
	if k.r.Namespaced && namespace == "" {
		namespace = corev1.NamespaceDefault
	}
	for {
		old, ok := k.cache.Get(namespace, name)
		if !ok {
			return nil, apierrors.NewNotFound(k.r.GR(), name)
		}
		v, err := decide(old)
		if err != nil || v.Unchanged {
			return v.Object, err
		}
		out, err := s.commit(ctx, k, id{k.r, namespace, name}, old, v)
		if out != nil || err != nil {
			return out, err
		}
	}
}

// commit carries out v on old, nil for a creation. It answers with nil when old
// is not the present state any more.
func (s *Store) commit(ctx context.Context, k *kind, i id, old api.Object, v rules.Verdict) (api.Object, error) {
	next := v.Object
	if v.Remove {
		next = nil
	}
	soft := s.c.Soft(old, next)
	s.mu.Lock()
	for {
		if now, _ := k.cache.Get(i.namespace, i.name); now != old {
			s.mu.Unlock()
			return nil, nil
		}
		sl := s.slots[i]
		if sl == nil || sl.busy == nil || soft && !sl.hard {
			break
		}
		busy := sl.busy
		s.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		s.mu.Lock()
	}
	if soft {
		defer s.mu.Unlock()
		sl := s.slot(i)
		s.put(i, v.Object, v.Remove)
		if sl.last = nil; v.Remove {
			sl.last = v.Object
		}
		if s.c.Passing == nil || !s.c.Passing(old, next) {
			s.store(i)
		}
		return v.Object, nil
	}
	if err := s.through(ctx, i, v); err != nil { // lets go of the lock
		return nil, err
	}
	return v.Object, nil
}

// through stores a change and then shows it. It is called with s.mu held and
// the object's slot not busy, and lets go of the lock.
func (s *Store) through(ctx context.Context, i id, v rules.Verdict) error {
	sl := s.slot(i)
	end := s.begin(sl, true)
	expect := sl.expected()
	delete(s.queue, i) // it goes with this write
	s.mu.Unlock()
	done := s.c.Durable.Persist(ctx, api.Write{Object: rules.WithRevision(v.Object, ""), Expect: expect, Remove: v.Remove})[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	defer end(i)
	if done.Err != nil {
		// What the object has of soft changes is still to be stored.
		s.store(i)
		if apierrors.IsConflict(done.Err) && expect == 0 {
			return apierrors.NewAlreadyExists(i.r.GR(), i.name)
		}
		return done.Err
	}
	sl.stored(done.Revision, v.Remove)
	sl.last = nil
	s.put(i, v.Object, v.Remove)
	return nil
}

// begin marks a slot as being written; end, called with s.mu held, ends that
// and takes in what the durable watch showed meanwhile.
func (s *Store) begin(sl *slot, hard bool) (end func(id)) {
	busy := make(chan struct{})
	sl.busy, sl.hard = busy, hard
	return func(i id) {
		early := sl.early
		sl.busy, sl.hard, sl.early = nil, false, nil
		for _, e := range early {
			s.takeIn(i, e)
		}
		s.tidy(i)
		close(busy)
	}
}

// expected is the revision that the durable copy is expected at.
func (sl *slot) expected() int64 {
	if sl.there {
		return sl.rev
	}
	return 0
}

// stored notes what was written.
func (sl *slot) stored(rev int64, removed bool) {
	sl.there, sl.rev = !removed, rev
	if removed {
		sl.gone = rev
	}
}

// tidy forgets a slot of which nothing is left to know. Called with s.mu held.
func (s *Store) tidy(i id) {
	sl := s.slots[i]
	if sl == nil || sl.there || sl.gone != 0 || sl.busy != nil || s.queue[i] {
		return
	}
	if _, ok := s.kinds[i.r].cache.Get(i.namespace, i.name); !ok {
		delete(s.slots, i)
	}
}
