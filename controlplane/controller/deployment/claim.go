package deployment

import (
	"context"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller/claim"
	"github.com/podsnap/podsnap/controlplane/view"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// selects reports whether the set's labels match the deployment's selector.
func selects(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	return err == nil && !s.Empty() && s.Matches(labels.Set(rs.Labels))
}

// claim answers with the sets that are the deployment's once it is settled which are.
func (r *Controller) claim(ctx context.Context, d *appsv1.Deployment, owned []*appsv1.ReplicaSet) ([]*appsv1.ReplicaSet, error) {
	return claim.Rules[*appsv1.ReplicaSet]{
		Objects: r.c.Objects, Owner: d, OwnerKind: api.Deployments, Kind: api.ReplicaSets,
		Mine: func(rs *appsv1.ReplicaSet) bool { return selects(d, rs) },
	}.Settle(ctx, owned, r.c.View.ReplicaSets.By(view.Orphan, d.Namespace))
}
