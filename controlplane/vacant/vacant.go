// Package vacant has the kinds of which there is never anything, so that the API has
// them and nobody below knows of them.
package vacant

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/podsnap/podsnap/api"
)

// Objects is what it is over, and the vacant kinds. They can be read alone: who writes
// one has no way to, as there is no kind of its type.
type Objects struct{ api.Objects }

// Get implements api.Objects.
func (o Objects) Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	if api.IsVacant(r) {
		return nil, apierrors.NewNotFound(r.GR(), name)
	}
	return o.Objects.Get(ctx, r, namespace, name)
}

// List implements api.Objects.
func (o Objects) List(ctx context.Context, r *api.Resource, lo api.ListOptions) (api.List, error) {
	if api.IsVacant(r) {
		r, lo = stand, api.ListOptions{Labels: labels.Nothing()}
	}
	return o.Objects.List(ctx, r, lo)
}

// Watch implements api.Objects.
func (o Objects) Watch(ctx context.Context, r *api.Resource, wo api.WatchOptions) (api.Watch, error) {
	if api.IsVacant(r) {
		r, wo = stand, api.WatchOptions{Labels: labels.Nothing(), ResourceVersion: wo.ResourceVersion}
	}
	return o.Objects.Watch(ctx, r, wo)
}

// stand is the kind whose revisions and bookmarks those of which there is nothing
// have: one that seldom changes.
var stand = api.StorageClasses
