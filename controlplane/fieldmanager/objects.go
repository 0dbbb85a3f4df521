package fieldmanager

import (
	"context"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

// Objects is an api.Objects whose writes are one manager's. Objects that nobody
// has tracked from their creation are tracked from their first apply on, as
// Kubernetes does.
type Objects struct {
	api.Objects

	// Manager is who writes.
	Manager string

	// Part is the subresource that a plain Update stands for, "" or Scale.
	Part string

	// Default fills in what a kind's fields are when they are left away. It is
	// called with objects of the writer's own.
	Default func(api.Object)

	// Decode, when not nil, reads the patched object, instead of rules.Decode.
	Decode func(r *api.Resource, doc []byte) (api.Object, error)
}

var _ api.Objects = (*Objects)(nil)

// Create implements api.Objects.
func (o *Objects) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	r := api.ResourceOf(obj)
	m, err := managerOf(r, "", o.Default)
	if err != nil {
		return nil, err
	}
	next := obj.DeepCopyObject().(api.Object)
	next.GetObjectKind().SetGroupVersionKind(r.GVK())
	o.Default(next)
	next = o.updated(m, empty(r), next)
	wholeSeconds(next)
	return o.Objects.Create(ctx, next)
}

// Update implements api.Objects.
func (o *Objects) Update(ctx context.Context, obj api.Object, uo api.UpdateOptions) (api.Object, error) {
	at := place{api.ResourceOf(obj), obj.GetNamespace(), obj.GetName(), uo.Subresource}
	return o.change(ctx, at, func(api.Object) (api.Object, error) { return obj, nil })
}

// Patch implements api.Objects. An apply is no patch of one object: see Apply.
func (o *Objects) Patch(ctx context.Context, r *api.Resource, namespace, name string, p api.Patch) (api.Object, error) {
	decode := o.Decode
	if decode == nil {
		decode = rules.Decode
	}
	return o.change(ctx, place{r, namespace, name, p.Subresource}, func(live api.Object) (api.Object, error) {
		return rules.PatchWith(live, p, decode)
	})
}

// place is where an object is, and the part of it that is written.
type place struct {
	r               *api.Resource
	namespace, name string
	subresource     string
}

// change writes what decide makes of the newest state, as often as somebody else
// was faster. A conflict is the answer when decide's insists on another version,
// and when nothing has changed since: then it is about something else.
func (o *Objects) change(ctx context.Context, at place, decide func(live api.Object) (api.Object, error)) (api.Object, error) {
	for before := ""; ; {
		live, err := o.Get(ctx, at.r, at.namespace, at.name)
		if err != nil {
			return nil, err
		}
		next, err := decide(live)
		if err != nil {
			return nil, err
		}
		insists := next.GetResourceVersion()
		next, err = o.tracked(live, next, at.subresource)
		if err != nil {
			return nil, err
		}
		out, err := o.Objects.Update(ctx, next, api.UpdateOptions{Subresource: at.subresource, ManagedFields: true})
		now := live.GetResourceVersion()
		if !apierrors.IsConflict(err) || ctx.Err() != nil || now == before || insists != "" && insists != now {
			return out, err
		}
		before = now
	}
}

// tracked is what will become of live when next is written, with the fields that
// change taken over by the manager.
func (o *Objects) tracked(live, next api.Object, subresource string) (api.Object, error) {
	fill := func(_, obj api.Object) error {
		o.Default(obj)
		return nil
	}
	switch fields := next.GetManagedFields(); {
	case fields == nil:
		// Clients that know nothing of them leave them away.
		next = withFields(next, live.GetManagedFields())
	case len(fields) == 1 && fields[0] == (metav1.ManagedFieldsEntry{}):
		next = withFields(next, []metav1.ManagedFieldsEntry{}) // how a reset is written
	}
	v, err := rules.Update(live, next, api.UpdateOptions{Subresource: subresource}, fill)
	if v.Unchanged || apierrors.IsConflict(err) {
		return next, nil // what is below looks again before it says so
	}
	if err != nil {
		return nil, err
	}
	part := subresource
	if part == "" {
		part = o.Part
	}
	m, err := managerOf(api.ResourceOf(live), part, o.Default)
	if err != nil {
		return nil, err
	}
	next = o.updated(m, live, rules.WithRevision(v.Object, live.GetResourceVersion()))
	wholeSeconds(next)
	return next, nil
}

// updated is next with what differs from live taken over by the manager. A custom
// object may not fit its schema: that is refused later, and is nothing to be logged.
func (o *Objects) updated(m *managedfields.FieldManager, live, next api.Object) api.Object {
	if _, ok := next.(*api.CustomObject); !ok {
		return m.UpdateNoErrors(live, next, o.Manager).(api.Object)
	}
	out, err := m.Update(live, next, o.Manager)
	if err != nil {
		return next
	}
	return out.(api.Object)
}

// wholeSeconds makes the times of an object's managed fields what they are on
// the wire: else an object that comes back would be another one.
func wholeSeconds(obj api.Object) {
	fields := slices.Clone(obj.GetManagedFields()) // they may be another object's
	for i := range fields {
		if t := fields[i].Time; t != nil {
			fields[i].Time = new(t.Rfc3339Copy())
		}
	}
	obj.SetManagedFields(fields)
}

// withFields is a copy of obj with other managed fields.
func withFields(obj api.Object, fields []metav1.ManagedFieldsEntry) api.Object {
	c := rules.WithRevision(obj, obj.GetResourceVersion())
	c.SetManagedFields(fields)
	return c
}

// same tells whether two states differ in nothing but when fields were taken.
func same(a, b api.Object) bool {
	return rules.Same(untimed(a), untimed(b))
}

func untimed(obj api.Object) api.Object {
	fields := make([]metav1.ManagedFieldsEntry, len(obj.GetManagedFields()))
	for i, f := range obj.GetManagedFields() {
		f.Time = nil
		fields[i] = f
	}
	return withFields(obj, fields)
}
