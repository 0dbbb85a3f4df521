package access

import (
	"context"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
)

// allowVolume lets a node follow the volumes that are on it alone, read those that its
// pods use, and change one of its own disk that is being deleted: to say that it has
// cleared it.
func allowVolume(ctx context.Context, node string, r Request, o api.Objects) (string, error) {
	const no = "a node may read the volumes of its pods and of its disk only"
	if r.Subresource != "" {
		return "a node does not say how volumes stand", nil
	}
	if r.Verb == "list" || r.Verb == "watch" {
		if r.Fields == nil {
			return no, nil
		}
		if on, ok := r.Fields.RequiresExactMatch("spec.nodeName"); !ok || on != node {
			return no, nil
		}
		return "", nil
	}
	if r.Verb != "get" && r.Verb != "update" {
		return no, nil
	}
	v, err := api.Get[*corev1.PersistentVolume](ctx, o, api.PersistentVolumes, "", r.Name)
	switch {
	case apierrors.IsNotFound(err):
		return "", nil // and that it is told
	case err != nil:
		return "", err
	case r.Verb == "update" && (!api.IsDiskOf(v, node) || v.DeletionTimestamp == nil):
		return "a node may change volumes of its own disk that are being deleted only", nil
	case api.NodeOfVolume(v) == node:
		return "", nil
	case v.Spec.ClaimRef == nil:
		return no, nil
	}
	pods, err := api.Items[*corev1.Pod](ctx, o, api.Pods, api.ListOptions{
		Namespace: v.Spec.ClaimRef.Namespace, Fields: fields.OneTermEqualSelector("spec.nodeName", node),
	})
	if err != nil {
		return "", err
	}
	for _, p := range pods {
		if uses(p, api.PersistentVolumeClaims, v.Spec.ClaimRef.Name) {
			return "", nil
		}
	}
	return no, nil
}
