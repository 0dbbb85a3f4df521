package dialect

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func (d *Dialect) scale(w http.ResponseWriter, r *http.Request) error {
	name := chi.URLParam(r, "name")
	var in struct {
		openfaas.ScaleRequest
		Replicas *uint64 `json:"replicas"`
	}
	if err := read(r, &in, false); err != nil {
		return err
	}
	if in.ServiceName != "" && in.ServiceName != name {
		return badRequest("serviceName: the body says %q, the path says %q", short(in.ServiceName), short(name))
	}
	if in.Replicas == nil {
		return badRequest("replicas: say how many, 0 or more")
	}
	ns, err := d.functionNamespace(r, in.Namespace)
	if err != nil {
		return err
	}
	f, err := d.function(r.Context(), ns, name)
	if err != nil {
		return err
	}
	least, most := d.c.Bounds(f)
	if n := *in.Replicas; n > uint64(max(most, 0)) {
		return badRequest("replicas: %d is more than the function's maximum of %d (label com.openfaas.scale.max)", n, most)
	} else if n > 0 && n < uint64(max(least, 0)) {
		return badRequest("replicas: %d is less than the function's minimum of %d (label com.openfaas.scale.min); only 0 is", n, least)
	}
	n := int32(*in.Replicas)
	set := func(dep *appsv1.Deployment) (bool, error) {
		if dep.Spec.Replicas != nil && *dep.Spec.Replicas == n {
			return false, nil
		}
		dep.Spec.Replicas = &n
		return true, nil
	}
	_, err = api.Mutate(r.Context(), d.c.Objects, api.Deployments, ns, name, api.UpdateOptions{}, set)
	if apierrors.IsNotFound(err) {
		// The function is stored, its plan is not applied yet.
		if err = d.c.Apply(r.Context(), d.c.Objects, f); err == nil {
			_, err = api.Mutate(r.Context(), d.c.Objects, api.Deployments, ns, name, api.UpdateOptions{}, set)
		}
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}
