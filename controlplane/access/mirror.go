package access

import (
	"context"
	"errors"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// mirror answers with nil when a node may make a pod: one that shows a static pod of
// its own and goes with the node. Otherwise a node could have any pod run anywhere.
func (g *Gate) mirror(ctx context.Context, u User, p *corev1.Pod) error {
	no := func(why string) error { return apierrors.NewForbidden(api.Pods.GR(), p.Name, errors.New(why)) }
	switch o := p.OwnerReferences; {
	case !rules.IsMirror(p):
		return no("a node makes no pods but mirrors of its static ones")
	case p.Spec.NodeName != u.Node():
		return no("a node makes mirrors of its own static pods only")
	case p.Labels[api.LabelFunction] != "":
		return no("a static pod is no function's")
	case len(o) != 1 || o[0].APIVersion != "v1" || o[0].Kind != api.Nodes.Kind || o[0].Name != u.Node() || o[0].Controller == nil || !*o[0].Controller:
		return no("the owner of a mirror is its node, and nobody else")
	case o[0].BlockOwnerDeletion != nil && *o[0].BlockOwnerDeletion:
		return no("a mirror may not block the deletion of its node")
	}
	n, err := api.Get[*corev1.Node](ctx, g.Objects, api.Nodes, "", u.Node())
	switch {
	case apierrors.IsNotFound(err):
		return no("the node was removed from the cluster")
	case err != nil:
		return err
	case n.UID != p.OwnerReferences[0].UID:
		return no("the owner is another node of the name")
	}
	return nil
}
