package rules

import (
	"fmt"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Delete decides what a delete request does to old: remove it, mark it with a
// deletionTimestamp, or nothing because it is marked already.
//
//   - Foreground and Orphan add the garbage collector's finalizers.
//   - An object with finalizers stays until the last one is removed.
//   - A pod that is bound to a node and has not ended stays for its grace period,
//     for its node agent to stop; a later delete may only shorten that, and one
//     with a grace period of 0 ends it.
//   - A namespace becomes Terminating until spec.finalizers is empty.
//
// Errors: Conflict for the preconditions, BadRequest for an unknown
// propagation policy.
func Delete(f Facts, old api.Object, o api.DeleteOptions) (Verdict, error) {
	r := api.ResourceOf(old)
	if err := precondition(r, old, o.UID, o.ResourceVersion); err != nil {
		return Verdict{}, err
	}
	finalizers, err := propagate(old.GetFinalizers(), o.Propagation)
	if err != nil {
		return Verdict{}, err
	}
	grace, changed := graceOf(old, o.GracePeriodSeconds)
	marked := old.GetDeletionTimestamp() != nil
	if marked && !changed && slices.Equal(finalizers, old.GetFinalizers()) {
		return Verdict{Object: old, Unchanged: true}, nil
	}
	next := old.DeepCopyObject().(api.Object)
	next.SetFinalizers(finalizers)
	if changed {
		mark(f.Now, old, next, grace)
	}
	if ns, ok := next.(*corev1.Namespace); ok {
		ns.Status.Phase = corev1.NamespaceTerminating
	}
	return Verdict{Object: next, Remove: ended(next)}, nil
}

// mark sets the time by which the object is to be gone. A shorter grace period
// counts from the first request.
func mark(now time.Time, old, next api.Object, grace int64) {
	begun := now.Truncate(time.Second)
	if t := old.GetDeletionTimestamp(); t != nil {
		begun = t.Time
		if g := old.GetDeletionGracePeriodSeconds(); g != nil {
			begun = begun.Add(-time.Duration(*g) * time.Second)
		}
	} else if g := next.GetGeneration(); g > 0 {
		next.SetGeneration(g + 1)
	}
	until := metav1.NewTime(begun.Add(time.Duration(grace) * time.Second))
	next.SetDeletionTimestamp(&until)
	next.SetDeletionGracePeriodSeconds(&grace)
}

// graceOf is the object's grace period in seconds and whether this request
// sets it.
func graceOf(old api.Object, asked *int64) (int64, bool) {
	grace := wanted(old, asked)
	if old.GetDeletionTimestamp() == nil {
		return grace, true
	}
	before := old.GetDeletionGracePeriodSeconds()
	if before == nil {
		return 0, false
	}
	ended := grace == 0 && asked == nil && *before > 0 // e.g. a pod that has ended meanwhile
	if (asked == nil && !ended) || grace >= *before {
		return *before, false
	}
	return grace, true
}

func wanted(old api.Object, asked *int64) int64 {
	p, ok := old.(*corev1.Pod)
	switch {
	case !ok, p.Spec.NodeName == "", p.Status.Phase == corev1.PodSucceeded, p.Status.Phase == corev1.PodFailed:
		return 0
	case asked != nil && *asked < 0:
		return 1
	case asked != nil:
		return *asked
	case p.Spec.TerminationGracePeriodSeconds != nil:
		return max(*p.Spec.TerminationGracePeriodSeconds, 1)
	default:
		return corev1.DefaultTerminationGracePeriodSeconds
	}
}

// propagate is the list of finalizers with those of the policy.
func propagate(old []string, policy metav1.DeletionPropagation) ([]string, error) {
	var add, drop string
	switch policy {
	case "":
		return old, nil
	case metav1.DeletePropagationBackground:
	case metav1.DeletePropagationForeground:
		add, drop = api.FinalizerForeground, api.FinalizerOrphan
	case metav1.DeletePropagationOrphan:
		add, drop = api.FinalizerOrphan, api.FinalizerForeground
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("propagationPolicy %q is none of Background, Foreground and Orphan", policy))
	}
	next := slices.DeleteFunc(slices.Clone(old), func(s string) bool {
		return s == drop || add == "" && (s == api.FinalizerForeground || s == api.FinalizerOrphan)
	})
	if add != "" && !slices.Contains(next, add) {
		next = append(next, add)
	}
	return next, nil
}
