package stateful

import (
	"context"
	"fmt"
	"slices"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller/claim"
	"github.com/podsnap/podsnap/controlplane/view"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
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
	mine = nil
	var orphans []*appsv1.ControllerRevision
	for _, o := range all {
		switch {
		case metav1.GetControllerOfNoCopy(o) == nil:
			orphans = append(orphans, o)
		case metav1.IsControlledBy(o, s):
			mine = append(mine, o)
		}
	}
	if mine, err = r.adopted(s).Settle(ctx, mine, orphans); err != nil {
		return nil, fmt.Errorf("the revisions of StatefulSet %s: %w", view.Key(s), err)
	}
	return sorted(mine), nil
}

// adopted are the rules for a revision that nobody has and that is of the set's pods: a
// set that was deleted without them and is made anew goes on with them as they are.
func (r *Controller) adopted(s *appsv1.StatefulSet) claim.Rules[*appsv1.ControllerRevision] {
	sel, err := metav1.LabelSelectorAsSelector(s.Spec.Selector)
	return claim.Rules[*appsv1.ControllerRevision]{
		Objects: r.c.Objects, Owner: s, OwnerKind: api.StatefulSets, Kind: api.ControllerRevisions,
		Mine: func(rev *appsv1.ControllerRevision) bool {
			return err == nil && !sel.Empty() && sel.Matches(labels.Set(rev.Labels)) && rev.Name == s.Name+"-"+rev.Labels[labelHash]
		},
		Stays: func(*appsv1.ControllerRevision) bool { return true },
	}
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
