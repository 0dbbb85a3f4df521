package rules

import (
	"errors"
	"fmt"

	"github.com/podsnap/podsnap/api"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// Update decides what becomes of old when a client sends obj. Server-owned
// metadata (uid, timestamps, generation, …) stays as it is. Where the kind has
// a status subresource a plain update keeps old's status, and one of "status"
// changes nothing else; nor does one of a pod's "ephemeralcontainers", of a namespace's
// "finalize" (but the finalizers of its spec) and of a signing request's "approval" (but
// the conditions). The generation grows when anything but metadata and
// status changed. admit (nil is none) works on the copy before it is compared.
// The Verdict's object has old's resourceVersion.
//
// Errors: Conflict for a stale resourceVersion or another uid, Invalid,
// BadRequest, and what admit answers.
func Update(old, obj api.Object, o api.UpdateOptions, admit func(old, next api.Object) error) (Verdict, error) {
	r := api.ResourceOf(old)
	if err := precondition(r, old, obj.GetUID(), obj.GetResourceVersion()); err != nil {
		return Verdict{}, err
	}
	if o.Subresource == "status" && r.Status {
		return updateStatus(old, obj, o.ManagedFields, admit)
	}
	if p, ok := old.(*corev1.Pod); ok && o.Subresource == "ephemeralcontainers" {
		return updateEphemeral(p, obj.(*corev1.Pod), admit)
	}
	if ns, ok := old.(*corev1.Namespace); ok && o.Subresource == "finalize" {
		return finalize(ns, obj.(*corev1.Namespace), admit)
	}
	if c, ok := old.(*certificatesv1.CertificateSigningRequest); ok && o.Subresource == api.Approval {
		decided := c.DeepCopy()
		decided.Status.Conditions = obj.(*certificatesv1.CertificateSigningRequest).Status.Conditions
		decided.ManagedFields = obj.GetManagedFields()
		return updateStatus(old, decided, o.ManagedFields, admit)
	}
	if o.Subresource != "" {
		return Verdict{}, apierrors.NewBadRequest(fmt.Sprintf("%s have no subresource %q that can be updated", r, o.Subresource))
	}
	next := merge(r, old, obj)
	if admit != nil {
		if err := admit(old, next); err != nil {
			return Verdict{}, err
		}
	}
	return settle(r, old, next)
}

// updateStatus takes the status alone, with managed also the managedFields;
// whatever else admit may do to its copy is dropped. The result shares everything but the status with old.
func updateStatus(old, obj api.Object, managed bool, admit func(old, next api.Object) error) (Verdict, error) {
	from := obj.DeepCopyObject().(api.Object)
	if admit != nil {
		next := old.DeepCopyObject().(api.Object)
		copyField(next, from, "Status")
		if err := admit(old, next); err != nil {
			return Verdict{}, err
		}
		from = next
	}
	if api.Alike(value(old, "Status"), value(from, "Status")) {
		return Verdict{Object: old, Unchanged: true}, nil
	}
	next := shallow(old)
	copyField(next, from, "Status")
	if managed {
		next.SetManagedFields(obj.GetManagedFields())
	}
	return Verdict{Object: next}, nil
}

// updateEphemeral takes the ephemeral containers alone.
func updateEphemeral(old, obj *corev1.Pod, admit func(old, next api.Object) error) (Verdict, error) {
	next := old.DeepCopy()
	next.Spec.EphemeralContainers = obj.DeepCopy().Spec.EphemeralContainers
	if admit != nil {
		if err := admit(old, next); err != nil {
			return Verdict{}, err
		}
	}
	if equality.Semantic.DeepEqual(old.Spec.EphemeralContainers, next.Spec.EphemeralContainers) {
		return Verdict{Object: old, Unchanged: true}, nil
	}
	next.SetGeneration(old.GetGeneration() + 1)
	return Verdict{Object: next}, nil
}

// finalize takes the finalizers of the spec alone: the last one's end is the namespace's,
// when that was deleted.
func finalize(old, obj *corev1.Namespace, admit func(old, next api.Object) error) (Verdict, error) {
	next := old.DeepCopy()
	next.Spec.Finalizers = append([]corev1.FinalizerName(nil), obj.Spec.Finalizers...)
	if admit != nil {
		if err := admit(old, next); err != nil {
			return Verdict{}, err
		}
	}
	return settle(api.Namespaces, old, next)
}

// precondition holds what a request expects against the current object; empty
// expectations hold always.
func precondition(r *api.Resource, old api.Object, uid types.UID, rv string) error {
	if uid != "" && uid != old.GetUID() {
		return apierrors.NewConflict(r.GR(), old.GetName(),
			fmt.Errorf("the uid in the request is %s, the object's is %s: it was deleted and created again", uid, old.GetUID()))
	}
	if rv != "" && rv != old.GetResourceVersion() {
		return apierrors.NewConflict(r.GR(), old.GetName(),
			errors.New("the object has been modified; please apply your changes to the latest version and try again"))
	}
	return nil
}

// merge makes the new state: a private copy of what the client may change, on
// top of what it may not.
func merge(r *api.Resource, old, obj api.Object) api.Object {
	next := obj.DeepCopyObject().(api.Object)
	next.GetObjectKind().SetGroupVersionKind(r.GVK())
	next.SetNamespace(old.GetNamespace())
	next.SetResourceVersion(old.GetResourceVersion())
	next.SetUID(old.GetUID())
	next.SetGenerateName(old.GetGenerateName())
	next.SetCreationTimestamp(old.GetCreationTimestamp())
	next.SetDeletionTimestamp(old.GetDeletionTimestamp())
	next.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	next.SetSelfLink(old.GetSelfLink())
	next.SetGeneration(old.GetGeneration())
	if r.Status {
		copyField(next, old.DeepCopyObject().(api.Object), "Status")
	}
	if ns, ok := next.(*corev1.Namespace); ok && old.GetDeletionTimestamp() == nil {
		ns.Spec.Finalizers = append([]corev1.FinalizerName(nil), old.(*corev1.Namespace).Spec.Finalizers...)
	}
	return next
}

// settle compares the two states, part by part so that nothing is compared
// twice, and says what is to be done.
func settle(r *api.Resource, old, next api.Object) (Verdict, error) {
	sameMeta := sameMeta(old, next)
	sameStatus := !r.Status || api.Alike(value(old, "Status"), value(next, "Status"))
	sameRest := sameButMetaAndStatus(r, old, next)
	if sameMeta && sameStatus && sameRest {
		return Verdict{Object: old, Unchanged: true}, nil
	}
	if !sameMeta {
		if err := validateUpdate(r, old, next); err != nil {
			return Verdict{}, err
		}
	}
	if !sameRest {
		next.SetGeneration(old.GetGeneration() + 1)
	}
	return Verdict{Object: next, Remove: ended(next)}, nil
}

func sameButMetaAndStatus(r *api.Resource, old, next api.Object) bool {
	if l, ok := old.(*coordinationv1.Lease); ok {
		return SameLease(&l.Spec, &next.(*coordinationv1.Lease).Spec)
	}
	if c, ok := old.(*api.CustomObject); ok {
		n := next.(*api.CustomObject)
		return c.SameContent(n) && (r.Status || equality.Semantic.DeepEqual(c.Status, n.Status))
	}
	o := shallow(old)
	copyField(o, next, "TypeMeta")
	copyField(o, next, "ObjectMeta")
	if r.Status {
		copyField(o, next, "Status")
	}
	return api.Alike(o, next)
}

// ended says whether nothing holds a deleted object any more: no finalizer, no
// grace period that its node agent has yet to use.
func ended(obj api.Object) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	if ns, ok := obj.(*corev1.Namespace); ok && len(ns.Spec.Finalizers) > 0 {
		return false
	}
	grace := obj.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}
