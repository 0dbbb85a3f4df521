package dialect

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"

	"github.com/go-chi/chi/v5"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func (d *Dialect) listFunctions(w http.ResponseWriter, r *http.Request) error {
	ns, err := d.functionNamespace(r, "")
	if err != nil {
		return err
	}
	fns, err := api.Items[*api.Function](r.Context(), d.c.Objects, api.Functions, api.ListOptions{Namespace: ns})
	if err != nil {
		return err
	}
	deps, err := api.Items[*appsv1.Deployment](r.Context(), d.c.Objects, api.Deployments, api.ListOptions{Namespace: ns})
	if err != nil {
		return err
	}
	byName := make(map[string]*appsv1.Deployment, len(deps))
	for _, dep := range deps {
		byName[dep.Name] = dep
	}
	out := make([]openfaas.FunctionStatus, 0, len(fns))
	for _, f := range fns {
		if f.DeletionTimestamp == nil {
			out = append(out, d.status(f, byName[f.Name]))
		}
	}
	return write(w, out)
}

func (d *Dialect) getFunction(w http.ResponseWriter, r *http.Request) error {
	ns, err := d.functionNamespace(r, "")
	if err != nil {
		return err
	}
	f, err := d.function(r.Context(), ns, chi.URLParam(r, "name"))
	if err != nil {
		return err
	}
	dep, err := api.Get[*appsv1.Deployment](r.Context(), d.c.Objects, api.Deployments, ns, f.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		dep = nil
	}
	out := d.status(f, dep)
	if q := r.URL.Query().Get("usage"); (q == "1" || q == "true") && d.c.Agents != nil {
		out.Usage = d.used(r.Context(), ns, f.Name)
	}
	return write(w, out)
}

// function gets one that exists and is not being deleted.
func (d *Dialect) function(ctx context.Context, ns, name string) (*api.Function, error) {
	if err := functionName(name); err != nil {
		return nil, err
	}
	f, err := api.Get[*api.Function](ctx, d.c.Objects, api.Functions, ns, name)
	if apierrors.IsNotFound(err) || err == nil && f.DeletionTimestamp != nil {
		return nil, fault(http.StatusNotFound, "function %s.%s: not found", name, ns)
	}
	return f, err
}

// status shows a function; dep is nil when it has no Deployment yet.
func (d *Dialect) status(f *api.Function, dep *appsv1.Deployment) openfaas.FunctionStatus {
	s := openfaas.FunctionStatus{
		Name: f.Name, Namespace: f.Namespace,
		Image:       f.Spec.Image,
		EnvProcess:  f.Spec.Process,
		EnvVars:     f.Spec.Environment,
		Constraints: f.Spec.Constraints,
		Secrets:     f.Spec.Secrets,
		Annotations: f.Spec.Annotations,
		Labels:      map[string]string{api.LabelFunction: f.Name},
		Limits:      toWire(f.Spec.Limits), Requests: toWire(f.Spec.Requests),
		ReadOnlyRootFilesystem: f.Spec.ReadOnlyRootFilesystem,
		InvocationCount:        float64(d.c.Invocations(types.NamespacedName{Namespace: f.Namespace, Name: f.Name})),
		CreatedAt:              f.CreationTimestamp.UTC(),
	}
	maps.Copy(s.Labels, f.Spec.Labels)
	health(&s, f)
	if dep == nil {
		least, _ := d.c.Bounds(f)
		s.Replicas = uint64(max(least, 0))
		return s
	}
	s.AvailableReplicas = uint64(max(dep.Status.AvailableReplicas, 0))
	s.Replicas = 1
	if dep.Spec.Replicas != nil {
		s.Replicas = uint64(max(*dep.Spec.Replicas, 0))
	}
	s.Updating = updating(dep, int64(s.Replicas))
	return s
}

func toWire(r *api.FunctionResources) *openfaas.Resources {
	if r == nil || r.Memory == "" && r.CPU == "" {
		return nil
	}
	return &openfaas.Resources{Memory: r.Memory, CPU: r.CPU}
}

func fromWire(field string, r *openfaas.Resources) (*api.FunctionResources, error) {
	if r == nil {
		return nil, nil
	}
	for _, gpu := range []struct{ name, value string }{{"nvidia.com/gpu", r.NvidiaGPU}, {"amd.com/gpu", r.AMDGPU}, {"intel.com/gpu", r.IntelGPU}} {
		if gpu.value != "" {
			return nil, badRequest("%s.%s: GPUs are not supported, only memory and cpu", field, gpu.name)
		}
	}
	if r.Memory == "" && r.CPU == "" {
		return nil, nil
	}
	return &api.FunctionResources{Memory: r.Memory, CPU: r.CPU}, nil
}

// wanted reads a deployment and judges it: what it returns can be stored.
func (d *Dialect) wanted(r *http.Request) (*api.Function, error) {
	var in openfaas.FunctionDeployment
	if err := read(r, &in, false); err != nil {
		return nil, err
	}
	ns, err := d.functionNamespace(r, in.Namespace)
	if err != nil {
		return nil, err
	}
	f := &api.Function{
		ObjectMeta: metav1.ObjectMeta{Name: in.Service, Namespace: ns},
		Spec: api.FunctionSpec{
			Name: in.Service, Image: in.Image, Process: in.EnvProcess,
			Labels: in.Labels, Annotations: in.Annotations, Environment: in.EnvVars,
			Constraints: in.Constraints, Secrets: in.Secrets,
			ReadOnlyRootFilesystem: in.ReadOnlyRootFilesystem,
		},
	}
	if f.Spec.Limits, err = fromWire("limits", in.Limits); err != nil {
		return nil, err
	}
	if f.Spec.Requests, err = fromWire("requests", in.Requests); err != nil {
		return nil, err
	}
	d.c.Default(f)
	if errs := d.c.Validate(f); len(errs) > 0 {
		return nil, invalid(in.Service, errs)
	}
	for _, s := range in.Secrets {
		_, err := api.Get[*corev1.Secret](r.Context(), d.c.Objects, api.Secrets, ns, s)
		if apierrors.IsNotFound(err) {
			return nil, badRequest("function %s: secret %q does not exist in namespace %s: create it first", in.Service, s, ns)
		}
		if err != nil {
			return nil, err
		}
	}
	if d.c.Digest != nil {
		if digest := d.c.Digest(r.Context(), in.Image); digest != "" {
			f.Annotations = map[string]string{d.c.AnnotationDigest: digest}
		}
	}
	return f, nil
}

func (d *Dialect) createFunction(w http.ResponseWriter, r *http.Request) error {
	f, err := d.wanted(r)
	if err != nil {
		return err
	}
	stored, err := api.Create(r.Context(), d.c.Objects, f)
	if apierrors.IsAlreadyExists(err) {
		return fault(http.StatusConflict, "function %s.%s exists already: update it with PUT, or delete it first", f.Name, f.Namespace)
	}
	if err != nil {
		return err
	}
	if err := d.c.Apply(r.Context(), d.c.Objects, stored); err != nil {
		d.takeBack(r.Context(), stored)
		return err
	}
	d.c.Deployed(stored)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// takeBack removes a function that could be stored but not applied.
func (d *Dialect) takeBack(ctx context.Context, f *api.Function) {
	_, err := d.c.Objects.Delete(context.WithoutCancel(ctx), api.Functions, f.Namespace, f.Name, api.DeleteOptions{UID: f.UID})
	if err != nil && !apierrors.IsNotFound(err) {
		d.c.Log.Warn("a function is stored but not applied", slog.String("function", f.Name), slog.String("namespace", f.Namespace), slog.Any("error", err))
	}
}

var errMissing = errors.New("missing")

func (d *Dialect) updateFunction(w http.ResponseWriter, r *http.Request) error {
	f, err := d.wanted(r)
	if err != nil {
		return err
	}
	stored, err := api.Mutate(r.Context(), d.c.Objects, api.Functions, f.Namespace, f.Name, api.UpdateOptions{}, func(have *api.Function) (bool, error) {
		if have.DeletionTimestamp != nil {
			return false, errMissing
		}
		f.Spec.Handler = have.Spec.Handler
		have.Spec = f.Spec
		delete(have.Annotations, d.c.AnnotationDigest)
		for k, v := range f.Annotations {
			metav1.SetMetaDataAnnotation(&have.ObjectMeta, k, v)
		}
		return true, nil
	})
	if apierrors.IsNotFound(err) || errors.Is(err, errMissing) {
		return fault(http.StatusNotFound, "function %s.%s: not found", f.Name, f.Namespace)
	}
	if err != nil {
		return err
	}
	if err := d.c.Apply(r.Context(), d.c.Objects, stored); err != nil {
		return err
	}
	d.c.Deployed(stored)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (d *Dialect) deleteFunction(w http.ResponseWriter, r *http.Request) error {
	var in openfaas.DeleteRequest
	if err := read(r, &in, true); err != nil {
		return err
	}
	if in.FunctionName == "" {
		return badRequest("functionName: name the function to delete")
	}
	ns, err := d.functionNamespace(r, in.Namespace)
	if err != nil {
		return err
	}
	f, err := d.function(r.Context(), ns, in.FunctionName)
	if err != nil {
		return err
	}
	if _, err := d.c.Objects.Delete(r.Context(), api.Functions, ns, f.Name, api.DeleteOptions{UID: f.UID}); err != nil {
		if apierrors.IsNotFound(err) {
			return fault(http.StatusNotFound, "function %s.%s: not found", f.Name, ns)
		}
		return err
	}
	d.c.Deleted(f)
	d.deleteOwned(r.Context(), f)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// deleteOwned takes the function's objects along at once, so that a deploy of
// the same name a moment later does not meet them. The garbage collector does
// the same for whatever is left.
func (d *Dialect) deleteOwned(ctx context.Context, f *api.Function) {
	ctx = context.WithoutCancel(ctx)
	for _, res := range []*api.Resource{api.Deployments, api.Services} {
		obj, err := d.c.Objects.Get(ctx, res, f.Namespace, f.Name)
		if err != nil || !slices.ContainsFunc(obj.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return o.UID == f.UID }) {
			continue
		}
		_, err = d.c.Objects.Delete(ctx, res, f.Namespace, f.Name, api.DeleteOptions{UID: obj.GetUID(), Propagation: metav1.DeletePropagationBackground})
		if err != nil && !apierrors.IsNotFound(err) {
			d.c.Log.Warn("delete a function's object", slog.String("resource", res.String()), slog.String("name", f.Name), slog.Any("error", err))
		}
	}
}
