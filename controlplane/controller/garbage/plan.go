package garbage

import (
	"slices"

	"github.com/podsnap/podsnap/api"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// standing is what is known of an owner.
type standing int

const (
	present standing = iota // or not ours to judge
	waiting                 // is being deleted in the foreground, after its dependents
	absent
)

// verdict is what becomes of an object with owners.
type verdict struct {
	remove      bool
	propagation metav1.DeletionPropagation // of the removal
	drop        []types.UID                // owner references to take out
}

// decide says what becomes of a dependent. owners has the standing of each of
// refs; blocking, whether it has dependents of its own that must go first.
func decide(refs []metav1.OwnerReference, owners []standing, blocking bool) verdict {
	var solid, wait bool
	var dangling []types.UID
	for i, o := range owners {
		switch o {
		case present:
			solid = true
		case waiting:
			wait = true
			dangling = append(dangling, refs[i].UID)
		case absent:
			dangling = append(dangling, refs[i].UID)
		}
	}
	switch {
	case len(dangling) == 0:
		return verdict{}
	case solid:
		return verdict{drop: dangling}
	case wait && blocking:
		return verdict{remove: true, propagation: metav1.DeletePropagationForeground}
	default:
		return verdict{remove: true, propagation: metav1.DeletePropagationBackground}
	}
}

// blocks reports whether dep says that the owner may not go before it.
func blocks(dep metav1.Object, owner types.UID) bool {
	for _, r := range dep.GetOwnerReferences() {
		if r.UID == owner {
			return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
		}
	}
	return false
}

// without takes references to some owners out of obj; it reports a change.
func without(obj metav1.Object, owners ...types.UID) bool {
	refs := obj.GetOwnerReferences()
	next := slices.DeleteFunc(slices.Clone(refs), func(r metav1.OwnerReference) bool { return slices.Contains(owners, r.UID) })
	if len(next) == len(refs) {
		return false
	}
	obj.SetOwnerReferences(next)
	return true
}

// unfinalize takes a finalizer out of obj; it reports a change.
func unfinalize(obj metav1.Object, finalizer string) bool {
	next := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool { return f == finalizer })
	if len(next) == len(obj.GetFinalizers()) {
		return false
	}
	obj.SetFinalizers(next)
	return true
}

// foreground reports whether obj waits for its dependents to go.
func foreground(obj metav1.Object) bool {
	return obj.GetDeletionTimestamp() != nil && slices.Contains(obj.GetFinalizers(), api.FinalizerForeground)
}

// orphaning reports whether obj waits for its dependents to be let go.
func orphaning(obj metav1.Object) bool {
	return obj.GetDeletionTimestamp() != nil && slices.Contains(obj.GetFinalizers(), api.FinalizerOrphan)
}
