package fieldmanager

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/yaml"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/openapi"
)

// Configuration is what somebody wants an object to be, as far as it is theirs.
type Configuration struct {
	Data        []byte // YAML or JSON
	Subresource string // "" or Status
	Force       bool   // take fields from others who have set them otherwise
}

// Apply makes an object what the manager wants of it: fields that it does not
// want any more go, others' stay. It makes the object when there is none, then
// created is true.
//
// Errors: BadRequest for what is no configuration of the object; Conflict with
// a cause for each field that another manager has set otherwise, or when the
// configuration names a version that is not the newest.
func (o *Objects) Apply(ctx context.Context, r *api.Resource, namespace, name string, c Configuration) (obj api.Object, created bool, err error) {
	want, err := Read(r, namespace, name, c.Data)
	if err != nil {
		return nil, false, err
	}
	part := c.Subresource
	if part == "" {
		part = o.Part
	}
	m, err := managerOf(r, part, o.Default)
	if err != nil {
		return nil, false, err
	}
	for before := ""; ; {
		live, err := o.Get(ctx, r, namespace, name)
		missing := apierrors.IsNotFound(err) && part == ""
		switch {
		case missing:
			obj, err = o.make(ctx, r, namespace, name, want, m, c.Force)
		case err != nil:
			return nil, false, err
		default:
			obj, err = o.merge(ctx, live, want, m, c)
		}
		// Somebody else was faster, unless nothing has changed since the last try.
		now := "-"
		if !missing {
			now = live.GetResourceVersion()
		}
		again := missing && apierrors.IsAlreadyExists(err) || !missing && apierrors.IsConflict(err) && !final(err) && want.GetResourceVersion() == ""
		if !again || now == before || ctx.Err() != nil {
			return obj, missing && err == nil, err
		}
		before = now
	}
}

// final tells whether a conflict is one of managers, or of what the configuration
// says the object is: then there is no use in another try.
func final(err error) bool {
	return apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict)
}

func (o *Objects) make(ctx context.Context, r *api.Resource, namespace, name string, want *unstructured.Unstructured, m *managedfields.FieldManager, force bool) (api.Object, error) {
	if want.GetUID() != "" {
		return nil, apierrors.NewConflict(r.GR(), name, fmt.Errorf("the configuration is of an object with the uid %s, which is not there", want.GetUID()))
	}
	if want.GetResourceVersion() != "" {
		return nil, apierrors.NewConflict(r.GR(), name, errors.New("the configuration is of a version of the object, which is not there"))
	}
	next, err := o.applied(r, empty(r), want, m, force)
	if err != nil {
		return nil, err
	}
	next.SetNamespace(namespace)
	next.SetName(name)
	return o.Objects.Create(ctx, next)
}

func (o *Objects) merge(ctx context.Context, live api.Object, want *unstructured.Unstructured, m *managedfields.FieldManager, c Configuration) (api.Object, error) {
	r := api.ResourceOf(live)
	if insists := want.GetResourceVersion(); insists != "" && insists != live.GetResourceVersion() {
		return nil, apierrors.NewConflict(r.GR(), live.GetName(), errors.New("the object has been modified; please apply your changes to the latest version and try again"))
	}
	if uid := want.GetUID(); uid != "" && uid != live.GetUID() {
		return nil, apierrors.NewConflict(r.GR(), live.GetName(), fmt.Errorf("the uid in the configuration is %s, the object's is %s", uid, live.GetUID()))
	}
	old := live.DeepCopyObject().(api.Object)
	old.GetObjectKind().SetGroupVersionKind(r.GVK())
	next, err := o.applied(r, old, want, m, c.Force)
	if err != nil {
		return nil, err
	}
	next.SetResourceVersion(live.GetResourceVersion())
	if same(live, next) {
		next = live
	}
	return o.Objects.Update(ctx, next, api.UpdateOptions{Subresource: c.Subresource, ManagedFields: true})
}

// applied is old with what the manager wants, which is a copy that it may keep.
func (o *Objects) applied(r *api.Resource, old api.Object, want *unstructured.Unstructured, m *managedfields.FieldManager, force bool) (api.Object, error) {
	out, err := m.Apply(old, want.DeepCopy(), o.Manager, force)
	if err != nil {
		var known apierrors.APIStatus
		if errors.As(err, &known) {
			return nil, err
		}
		return nil, fmt.Errorf("apply to %s %s: %w", r, old.GetName(), err)
	}
	next, ok := out.(api.Object)
	if !ok {
		return nil, fmt.Errorf("apply to %s %s: %T is no object of the kind", r, old.GetName(), out)
	}
	wholeSeconds(next)
	return next, nil
}

// Read reads a configuration of an object of the kind at that place.
func Read(r *api.Resource, namespace, name string, data []byte) (*unstructured.Unstructured, error) {
	if len(data) > rules.MaxPatchBytes {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the configuration has %d bytes, at most %d are allowed", len(data), rules.MaxPatchBytes))
	}
	doc, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, apierrors.NewBadRequest("error decoding YAML: " + err.Error())
	}
	u := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(doc, &u.Object); err != nil || u.Object == nil {
		return nil, apierrors.NewBadRequest("the configuration is not an object")
	}
	if err := fits(u, r, namespace, name); err != nil {
		return nil, err
	}
	// With the types of the fields, wrong quantities and times are found as well.
	if _, err := openapi.TypeFor(r).FromUnstructured(u.Object); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("failed to create typed patch object (%s/%s; %s): %v", namespace, name, r.GVK(), err))
	}
	if err := runtimeConvert(u, r); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", r.Kind, r.Version, r.Kind, err))
	}
	return u, nil
}

func runtimeConvert(u *unstructured.Unstructured, r *api.Resource) error {
	_, err := kind{r: r}.ConvertToVersion(u, r.GVK().GroupVersion())
	return err
}

// fits says whether a configuration is one of the object at that place.
func fits(u *unstructured.Unstructured, r *api.Resource, namespace, name string) error {
	for _, f := range []string{"apiVersion", "kind"} {
		if s, ok := u.Object[f].(string); !ok || s == "" {
			return apierrors.NewBadRequest(fmt.Sprintf("%s must be set in an apply patch", f))
		}
	}
	if got := u.GroupVersionKind(); got != r.GVK() {
		return apierrors.NewBadRequest(fmt.Sprintf("the configuration is of a %q of %q; this URL expects a %q of %q", got.Kind, got.GroupVersion(), r.Kind, r.GVK().GroupVersion()))
	}
	meta, ok := u.Object["metadata"].(map[string]any)
	if u.Object["metadata"] != nil && !ok {
		return apierrors.NewBadRequest("metadata must be an object")
	}
	for f, want := range map[string]string{"name": name, "namespace": namespace} {
		switch got := meta[f].(type) {
		case nil:
		case string:
			if got != "" && got != want {
				return apierrors.NewBadRequest(fmt.Sprintf("the %s of the configuration (%s) does not match the %s on the URL (%s)", f, got, f, want))
			}
		default:
			return apierrors.NewBadRequest(fmt.Sprintf("metadata.%s must be a string", f))
		}
	}
	if meta["managedFields"] != nil {
		return apierrors.NewBadRequest("metadata.managedFields must be nil")
	}
	return nil
}
