package stateful

import (
	"context"
	"fmt"
	"slices"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/view"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// history is between which revisions a set is.
type history struct {
	current, update *appsv1.ControllerRevision
	collisions      *int32
}

// history finds the set's revisions, makes the one of its template and takes out those
// that are too old. It asks the store for them, not the mirror: of two revisions of one
// template pods would be replaced for nothing.
func (r *Controller) history(ctx context.Context, s *appsv1.StatefulSet, pods []*corev1.Pod) (history, error) {
	all, err := r.revisions(ctx, s)
	if err != nil {
		return history{}, err
	}
	h := history{update: matching(all, &s.Spec.Template), collisions: s.Status.CollisionCount}
	switch {
	case h.update == nil:
		h.update, h.collisions, err = r.revise(ctx, s, next(all))
	case h.update != all[len(all)-1]: // rolled back
		number := next(all)
		h.update, err = api.Mutate(ctx, r.c.Objects, api.ControllerRevisions, s.Namespace, h.update.Name, api.UpdateOptions{}, func(o *appsv1.ControllerRevision) (bool, error) {
			o.Revision = number
			return true, nil
		})
	}
	if err != nil {
		return history{}, fmt.Errorf("revision of StatefulSet %s: %w", view.Key(s), err)
	}
	h.current = h.update
	if i := slices.IndexFunc(all, func(o *appsv1.ControllerRevision) bool { return o.Name == s.Status.CurrentRevision }); i >= 0 && h.update.Name != all[i].Name {
		h.current = all[i]
	}
	used := map[string]bool{h.current.Name: true, h.update.Name: true}
	for _, p := range pods {
		used[revisionOf(p)] = true
	}
	for _, o := range surplus(s, all, used) {
		if _, err := r.c.Objects.Delete(ctx, api.ControllerRevisions, o.Namespace, o.Name, api.DeleteOptions{UID: o.UID}); missing(err) != nil {
			return history{}, fmt.Errorf("delete revision %s of StatefulSet %s: %w", o.Name, view.Key(s), err)
		}
	}
	return h, nil
}

// revisions are the set's own, sorted. The mirror serves when it has the one of the
// template, which is nearly always.
func (r *Controller) revisions(ctx context.Context, s *appsv1.StatefulSet) ([]*appsv1.ControllerRevision, error) {
	var mine []*appsv1.ControllerRevision
	for _, o := range r.c.View.Kind(api.ControllerRevisions).By(view.Dependents, string(s.UID)) {
		mine = append(mine, o.(*appsv1.ControllerRevision))
	}
	mine = sorted(mine)
	if n := len(mine); n > 0 && matching(mine, &s.Spec.Template) == mine[n-1] {
		return mine, nil
	}
	all, err := api.Items[*appsv1.ControllerRevision](ctx, r.c.Objects, api.ControllerRevisions, api.ListOptions{Namespace: s.Namespace})
	if err != nil {
		return nil, fmt.Errorf("list the revisions of StatefulSet %s: %w", view.Key(s), err)
	}
	return sorted(slices.DeleteFunc(all, func(o *appsv1.ControllerRevision) bool { return !metav1.IsControlledBy(o, s) })), nil
}

// revise makes the revision of the set's template. A name that something else has
// counts as a collision, and gets another hash.
func (r *Controller) revise(ctx context.Context, s *appsv1.StatefulSet, number int64) (*appsv1.ControllerRevision, *int32, error) {
	collisions := int32(0)
	if s.Status.CollisionCount != nil {
		collisions = *s.Status.CollisionCount
	}
	for ; ; collisions++ {
		rev, err := newRevision(s, number, collisions)
		if err != nil {
			return nil, nil, err
		}
		got, err := api.Create(ctx, r.c.Objects, rev)
		if !apierrors.IsAlreadyExists(err) {
			if collisions == 0 {
				return got, nil, err
			}
			return got, &collisions, err
		}
	}
}
