package rules

import (
	"maps"
	"slices"

	"github.com/podsnap/podsnap/api"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sameMeta says whether the metadata of two objects is semantically equal. Every
// write asks that, a node's each second: it is answered without reflection but for
// what is rarely there.
func sameMeta(a, b api.Object) bool {
	o, okO := metaOf(a)
	n, okN := metaOf(b)
	if !okO || !okN {
		return equality.Semantic.DeepEqual(value(a, "ObjectMeta"), value(b, "ObjectMeta"))
	}
	return o.Name == n.Name && o.GenerateName == n.GenerateName && o.Namespace == n.Namespace && o.GetSelfLink() == n.GetSelfLink() &&
		o.UID == n.UID && o.ResourceVersion == n.ResourceVersion && o.Generation == n.Generation &&
		o.CreationTimestamp.Equal(&n.CreationTimestamp) && o.DeletionTimestamp.Equal(n.DeletionTimestamp) &&
		equal(o.DeletionGracePeriodSeconds, n.DeletionGracePeriodSeconds) &&
		maps.Equal(o.Labels, n.Labels) && maps.Equal(o.Annotations, n.Annotations) && slices.Equal(o.Finalizers, n.Finalizers) &&
		SameOwners(o.OwnerReferences, n.OwnerReferences) && sameFields(o.ManagedFields, n.ManagedFields)
}

// Same says whether two objects of one kind are semantically equal.
func Same(a, b api.Object) bool {
	if c, ok := a.(*api.CustomObject); ok {
		o, ok := b.(*api.CustomObject)
		return ok && c.TypeMeta == o.TypeMeta && sameMeta(c, o) && c.SameContent(o) && equality.Semantic.DeepEqual(c.Status, o.Status)
	}
	return equality.Semantic.DeepEqual(a, b)
}

func metaOf(o api.Object) (*metav1.ObjectMeta, bool) {
	a, ok := o.(metav1.ObjectMetaAccessor)
	if !ok {
		return nil, false
	}
	m, ok := a.GetObjectMeta().(*metav1.ObjectMeta)
	return m, ok
}

// SameOwners says whether two lists of owners are semantically equal.
func SameOwners(a, b []metav1.OwnerReference) bool {
	return slices.EqualFunc(a, b, func(x, y metav1.OwnerReference) bool {
		return x.APIVersion == y.APIVersion && x.Kind == y.Kind && x.Name == y.Name && x.UID == y.UID &&
			equal(x.Controller, y.Controller) && equal(x.BlockOwnerDeletion, y.BlockOwnerDeletion)
	})
}

func sameFields(a, b []metav1.ManagedFieldsEntry) bool {
	return len(a) == 0 && len(b) == 0 || equality.Semantic.DeepEqual(a, b)
}

// SameLease says whether two leases say the same.
func SameLease(a, b *coordinationv1.LeaseSpec) bool {
	return a.RenewTime.Equal(b.RenewTime) && a.AcquireTime.Equal(b.AcquireTime) &&
		equal(a.HolderIdentity, b.HolderIdentity) && equal(a.LeaseDurationSeconds, b.LeaseDurationSeconds) &&
		equal(a.LeaseTransitions, b.LeaseTransitions) && equal(a.Strategy, b.Strategy) && equal(a.PreferredHolder, b.PreferredHolder)
}

func equal[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
