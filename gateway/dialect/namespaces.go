package dialect

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// forFunctions reports whether functions may live in n.
func forFunctions(n *corev1.Namespace) bool {
	return n.Name == api.FunctionNamespace || n.Labels[api.LabelFunctionNamespace] == "1"
}

// functionNamespace is the namespace that a request means, which has to be one
// for functions.
func (d *Dialect) functionNamespace(r *http.Request, inBody string) (string, error) {
	ns, err := namespaceOf(r, inBody)
	if err != nil || ns == api.FunctionNamespace {
		return ns, err
	}
	n, err := api.Get[*corev1.Namespace](r.Context(), d.c.Objects, api.Namespaces, "", ns)
	switch {
	case apierrors.IsNotFound(err):
		return "", badRequest("namespace %s does not exist", ns)
	case err != nil:
		return "", err
	case !forFunctions(n):
		return "", badRequest("namespace %s is not one for functions: it lacks the label %s=1", ns, api.LabelFunctionNamespace)
	}
	return ns, nil
}

// EnsureNamespace makes the default namespace of functions, if it is not there.
func (d *Dialect) EnsureNamespace(ctx context.Context) error {
	for _, o := range []api.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name:   api.FunctionNamespace,
			Labels: map[string]string{api.LabelFunctionNamespace: "1"}, Annotations: map[string]string{api.LabelFunctionNamespace: "1"},
		}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: api.GatewayNamespace}},
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: api.GatewayNamespace, Name: api.GatewayService},
			Spec:       corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Name: "http", Port: api.FunctionPort}}},
		},
	} {
		_, err := d.c.Objects.Get(ctx, api.ResourceOf(o), o.GetNamespace(), o.GetName())
		if apierrors.IsNotFound(err) {
			_, err = d.c.Objects.Create(ctx, o)
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func (d *Dialect) listNamespaces(w http.ResponseWriter, r *http.Request) error {
	all, err := api.Items[*corev1.Namespace](r.Context(), d.c.Objects, api.Namespaces, api.ListOptions{})
	if err != nil {
		return err
	}
	out := []string{}
	for _, n := range all {
		if forFunctions(n) && n.DeletionTimestamp == nil {
			out = append(out, n.Name)
		}
	}
	if len(out) == 0 {
		out = append(out, api.FunctionNamespace)
	}
	return write(w, out)
}

func (d *Dialect) namespaceUnnamed(http.ResponseWriter, *http.Request) error {
	return badRequest("name the namespace in the path: /system/namespace/<name>")
}

// namespace gets the one that the path names.
func (d *Dialect) namespace(r *http.Request) (*corev1.Namespace, error) {
	name := chi.URLParam(r, "name")
	if msgs := validation.IsDNS1123Label(name); len(msgs) > 0 {
		return nil, badRequest("namespace name %q: %s", short(name), msgs[0])
	}
	n, err := api.Get[*corev1.Namespace](r.Context(), d.c.Objects, api.Namespaces, "", name)
	if apierrors.IsNotFound(err) || err == nil && !forFunctions(n) {
		return nil, fault(http.StatusNotFound, "namespace %s: not found among those for functions", name)
	}
	return n, err
}

func (d *Dialect) getNamespace(w http.ResponseWriter, r *http.Request) error {
	n, err := d.namespace(r)
	if err != nil {
		return err
	}
	out := openfaas.Namespace{Name: n.Name, Labels: own(n.Labels), Annotations: own(n.Annotations)}
	return write(w, out)
}

// reserved reports whether a label or annotation is Kubernetes' own.
func reserved(key string) bool {
	prefix, _, ok := strings.Cut(key, "/")
	return ok && (prefix == "kubernetes.io" || strings.HasSuffix(prefix, ".kubernetes.io"))
}

func own(m map[string]string) map[string]string {
	out := maps.Clone(m)
	maps.DeleteFunc(out, func(k, _ string) bool { return reserved(k) })
	return out
}

// merged is want and what is reserved of have.
func merged(have, want map[string]string) map[string]string {
	out := map[string]string{api.LabelFunctionNamespace: "1"}
	for k, v := range want {
		if !reserved(k) {
			out[k] = v
		}
	}
	for k, v := range have {
		if reserved(k) {
			out[k] = v
		}
	}
	return out
}

func readNamespace(r *http.Request) (openfaas.Namespace, error) {
	var in openfaas.Namespace
	if err := read(r, &in, false); err != nil {
		return in, err
	}
	if msgs := validation.IsDNS1123Label(in.Name); len(msgs) > 0 {
		return in, badRequest("name: %q: %s", short(in.Name), msgs[0])
	}
	if in.Labels[api.LabelFunctionNamespace] != "1" && in.Annotations[api.LabelFunctionNamespace] != "1" {
		return in, badRequest("labels: a namespace for functions needs the label or annotation %s=1", api.LabelFunctionNamespace)
	}
	for _, k := range slices.Sorted(maps.Keys(in.Labels)) {
		if msgs := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(in.Labels[k])...); len(msgs) > 0 {
			return in, badRequest("labels: %q=%q: %s", short(k), short(in.Labels[k]), msgs[0])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(in.Annotations)) {
		if msgs := validation.IsQualifiedName(strings.ToLower(k)); len(msgs) > 0 {
			return in, badRequest("annotations: %q: %s", short(k), msgs[0])
		}
	}
	return in, nil
}

func (d *Dialect) createNamespace(w http.ResponseWriter, r *http.Request) error {
	in, err := readNamespace(r)
	if err != nil {
		return err
	}
	_, err = d.c.Objects.Create(r.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: in.Name, Labels: merged(nil, in.Labels), Annotations: merged(nil, in.Annotations),
	}})
	if apierrors.IsAlreadyExists(err) {
		return fault(http.StatusConflict, "namespace %s exists already", in.Name)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (d *Dialect) updateNamespace(w http.ResponseWriter, r *http.Request) error {
	in, err := readNamespace(r)
	if err != nil {
		return err
	}
	if name := chi.URLParam(r, "name"); in.Name != name {
		return badRequest("name: the body says %q, the path says %q", in.Name, short(name))
	}
	if _, err := d.namespace(r); err != nil {
		return err
	}
	_, err = api.Mutate(r.Context(), d.c.Objects, api.Namespaces, "", in.Name, api.UpdateOptions{}, func(n *corev1.Namespace) (bool, error) {
		n.Labels, n.Annotations = merged(n.Labels, in.Labels), merged(n.Annotations, in.Annotations)
		return true, nil
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (d *Dialect) deleteNamespace(w http.ResponseWriter, r *http.Request) error {
	var in openfaas.Namespace
	if err := read(r, &in, true); err != nil {
		return err
	}
	n, err := d.namespace(r)
	if err != nil {
		return d.notForFunctions(r, err)
	}
	if in.Name != "" && in.Name != n.Name {
		return badRequest("name: the body says %q, the path says %q", short(in.Name), n.Name)
	}
	if n.Name == api.FunctionNamespace {
		return badRequest("namespace %s is the default one and stays", n.Name)
	}
	if _, err := d.c.Objects.Delete(r.Context(), api.Namespaces, "", n.Name, api.DeleteOptions{UID: n.UID}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// notForFunctions turns a namespace that was not found among those for
// functions into a refusal when there is one of the name: who deletes has to be
// told that it stays.
func (d *Dialect) notForFunctions(r *http.Request, err error) error {
	name := chi.URLParam(r, "name")
	if statusOf(err).status != http.StatusNotFound {
		return err
	}
	if n, getErr := api.Get[*corev1.Namespace](r.Context(), d.c.Objects, api.Namespaces, "", name); getErr == nil && !forFunctions(n) {
		return badRequest("namespace %s is not one for functions: it lacks the label %s=1", name, api.LabelFunctionNamespace)
	}
	return err
}
