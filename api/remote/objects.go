package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/podsnap/podsnap/api"
)

// Objects is an api.Objects that asks a Kubernetes API server. It holds no
// state but idle connections.
type Objects struct{ c *client }

var _ api.Objects = (*Objects)(nil)

// NewObjects makes a client of the API at cfg.URL.
func NewObjects(cfg Config) *Objects { return &Objects{newClient(cfg)} }

// path is where a collection, or with a name an object, lies. Objects of
// namespaced kinds that name no namespace are in "default"; collections that
// name none are those of all namespaces.
func path(r *api.Resource, namespace, name string, collection bool) string {
	p := "/apis/" + r.Group + "/" + r.Version
	if r.Group == "" {
		p = "/api/" + r.Version
	}
	if r.Namespaced {
		if namespace == "" && !collection {
			namespace = metav1.NamespaceDefault
		}
		if namespace != "" {
			p += "/namespaces/" + url.PathEscape(namespace)
		}
	}
	p += "/" + r.Plural
	if name != "" {
		p += "/" + url.PathEscape(name)
	}
	return p
}

// part is the path of an object, or of a subresource that may be changed.
func part(r *api.Resource, namespace, name, subresource string) (string, error) {
	p := path(r, namespace, name, false)
	switch {
	case subresource == "":
		return p, nil
	case subresource == "status" && r.Status:
		return p + "/status", nil
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("%s have no subresource %q that can be changed", r, subresource))
}

func (o *Objects) object(ctx context.Context, r *api.Resource, req request, in any) (api.Object, error) {
	b, err := o.c.call(ctx, req, in)
	if err != nil {
		return nil, err
	}
	return decode(r, b)
}

func decode(r *api.Resource, b []byte) (api.Object, error) {
	obj := r.New()
	if err := utiljson.Unmarshal(b, obj); err != nil {
		return nil, fmt.Errorf("decode %s: %w", r, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(r.GVK())
	return obj, nil
}

// Get implements api.Objects.
func (o *Objects) Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error) {
	return o.object(ctx, r, request{method: http.MethodGet, path: path(r, namespace, name, false)}, nil)
}

// List implements api.Objects.
func (o *Objects) List(ctx context.Context, r *api.Resource, lo api.ListOptions) (api.List, error) {
	q := selection(lo.Labels, lo.Fields)
	if lo.Limit > 0 {
		q.Set("limit", strconv.FormatInt(lo.Limit, 10))
	}
	if lo.Continue != "" {
		q.Set("continue", lo.Continue)
	}
	b, err := o.c.call(ctx, request{method: http.MethodGet, path: path(r, lo.Namespace, "", true), query: q}, nil)
	if err != nil {
		return api.List{}, err
	}
	var in struct {
		Metadata metav1.ListMeta   `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return api.List{}, fmt.Errorf("decode the list of %s: %w", r, err)
	}
	out := api.List{
		Items:           make([]api.Object, len(in.Items)),
		ResourceVersion: in.Metadata.ResourceVersion, Continue: in.Metadata.Continue,
	}
	if n := in.Metadata.RemainingItemCount; n != nil {
		out.Remaining = *n
	}
	for i, raw := range in.Items {
		if out.Items[i], err = decode(r, raw); err != nil {
			return api.List{}, err
		}
	}
	return out, nil
}

func selection(l labels.Selector, f fields.Selector) url.Values {
	q := url.Values{}
	if l != nil && !l.Empty() {
		q.Set("labelSelector", l.String())
		if l.String() == "" {
			q.Set("labelSelector", nothing)
		}
	}
	if f != nil && !f.Empty() {
		q.Set("fieldSelector", f.String())
		if f.String() == "" {
			q.Set("labelSelector", nothing)
		}
	}
	return q
}

// nothing selects no object: labels.Nothing has no form on the wire.
const nothing = "podsnap.dev/none,!podsnap.dev/none"

// Create implements api.Objects.
func (o *Objects) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	r := api.ResourceOf(obj)
	return o.object(ctx, r, request{method: http.MethodPost, path: path(r, obj.GetNamespace(), "", false)}, obj)
}

// Update implements api.Objects.
func (o *Objects) Update(ctx context.Context, obj api.Object, uo api.UpdateOptions) (api.Object, error) {
	r := api.ResourceOf(obj)
	p, err := part(r, obj.GetNamespace(), obj.GetName(), uo.Subresource)
	if err != nil {
		return nil, err
	}
	return o.object(ctx, r, request{method: http.MethodPut, path: p}, obj)
}

// Patch implements api.Objects.
func (o *Objects) Patch(ctx context.Context, r *api.Resource, namespace, name string, p api.Patch) (api.Object, error) {
	at, err := part(r, namespace, name, p.Subresource)
	if err != nil {
		return nil, err
	}
	return o.object(ctx, r, request{
		method: http.MethodPatch, path: at,
		contentType: string(p.Type), body: bytes.NewReader(p.Data),
		query: url.Values{"fieldValidation": {"Ignore"}},
	}, nil)
}

// Delete implements api.Objects.
func (o *Objects) Delete(ctx context.Context, r *api.Resource, namespace, name string, do api.DeleteOptions) (api.Object, error) {
	d := &metav1.DeleteOptions{
		TypeMeta:           metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"},
		GracePeriodSeconds: do.GracePeriodSeconds,
	}
	if do.UID != "" || do.ResourceVersion != "" {
		d.Preconditions = &metav1.Preconditions{}
		if do.UID != "" {
			d.Preconditions.UID = &do.UID
		}
		if do.ResourceVersion != "" {
			d.Preconditions.ResourceVersion = &do.ResourceVersion
		}
	}
	if do.Propagation != "" {
		d.PropagationPolicy = &do.Propagation
	}
	return o.object(ctx, r, request{method: http.MethodDelete, path: path(r, namespace, name, false)}, d)
}

// Evict deletes a pod unless its disruption budget forbids that: then the error is
// TooManyRequests, with the reason as its cause.
func (o *Objects) Evict(ctx context.Context, namespace, name string, uid types.UID) error {
	_, err := o.c.call(ctx, request{method: http.MethodPost, path: path(api.Pods, namespace, name, false) + "/eviction"}, &policyv1.Eviction{
		TypeMeta:      metav1.TypeMeta{APIVersion: "policy/v1", Kind: "Eviction"},
		ObjectMeta:    metav1.ObjectMeta{Namespace: namespace, Name: name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}},
	})
	return err
}
