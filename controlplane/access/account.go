package access

import (
	"context"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// allowAccount lets a node ask for tokens of the accounts of its own pods. That a
// token is bound to such a pod is looked at when it is made.
func allowAccount(ctx context.Context, node string, r Request, o api.Objects) (string, error) {
	const no = "a node may ask for tokens of its pods' service accounts only"
	if r.Verb != "create" || r.Subresource != "token" || r.Namespace == "" || r.Name == "" {
		return no, nil
	}
	mine, err := api.Items[*corev1.Pod](ctx, o, api.Pods, api.ListOptions{Namespace: r.Namespace, Fields: fields.OneTermEqualSelector("spec.nodeName", node)})
	if err != nil {
		return "", err
	}
	for _, p := range mine {
		if p.Spec.ServiceAccountName == r.Name {
			return "", nil
		}
	}
	return no, nil
}
