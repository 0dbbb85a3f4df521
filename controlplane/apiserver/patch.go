package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/fieldmanager"
)

func patchTypes() []types.PatchType {
	return []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType}
}

func (s *Server) patch(c *call) error {
	p, err := s.readPatch(c, c.wire().GVK(), c.wire().New())
	if err != nil {
		return err
	}
	if p.Type == types.ApplyYAMLPatchType {
		return s.apply(c, p)
	}
	if (c.resource == api.Functions || c.resource.Definition != nil) && p.Type == types.StrategicMergePatchType {
		// Like every kind that Kubernetes does not define itself: clients ask
		// for this answer and fall back to a merge patch.
		return unsupportedMedia(string(p.Type), []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.ApplyYAMLPatchType)})
	}
	objects, err := s.target(c)
	if err != nil {
		return err
	}
	if m, ok := objects.(*fieldmanager.Objects); ok {
		m.Decode = func(r *api.Resource, doc []byte) (api.Object, error) {
			obj := r.New()
			return obj, s.codec.decode(c.w, p.validation, doc, r.GVK(), obj)
		}
	}
	write := func() (api.Object, error) {
		return objects.Patch(c.ctx(), c.resource, c.namespace, c.name, p.Patch)
	}
	if c.version != nil {
		write = func() (api.Object, error) { return s.patchShown(c, objects, p) }
	}
	out, err := write()
	if err != nil {
		return err
	}
	c.warn(out)
	return s.answer(c, http.StatusOK, out)
}

// apply makes the object what a manager wants of it.
func (s *Server) apply(c *call, p patch) error {
	m, err := s.applier(c)
	if err != nil {
		return err
	}
	data, err := s.configuration(c, p.Data)
	if err != nil {
		return err
	}
	out, created, err := m.Apply(c.ctx(), c.resource, c.namespace, c.name, fieldmanager.Configuration{Data: data, Subresource: c.subresource, Force: p.force})
	if err != nil {
		return err
	}
	c.warn(out)
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return s.answer(c, code, out)
}

// applier is where the applies of the manager go that the call names. An apply
// may create, so who applies has to be allowed to.
func (s *Server) applier(c *call) (*fieldmanager.Objects, error) {
	q := c.r.URL.Query()
	if q.Get("fieldManager") == "" {
		return nil, invalidOptions(field.Required(field.NewPath("fieldManager"), "is required for apply patch"))
	}
	if err := s.allow(c.ctx(), c, "create"); err != nil {
		return nil, err
	}
	dry, err := isDry(q["dryRun"])
	if err != nil {
		return nil, err
	}
	return s.managed(c, dry)
}

// patch is one as it was sent.
type patch struct {
	api.Patch
	validation string // what is done about fields that the kind does not have
	force      bool   // of an apply
}

// readPatch reads the body; into is an empty object of the patched kind, by
// which unknown fields are found.
func (s *Server) readPatch(c *call, kind schema.GroupVersionKind, into runtime.Object) (patch, error) {
	ct := c.r.Header.Get("Content-Type")
	media, _, _ := mime.ParseMediaType(ct) // what does not parse is not in the list
	p := patch{Patch: api.Patch{Type: types.PatchType(media), Subresource: c.subresource}}
	if !slices.Contains(patchTypes(), p.Type) {
		names := make([]string, 0, 4)
		for _, t := range patchTypes() {
			names = append(names, string(t))
		}
		return p, unsupportedMedia(ct, names)
	}
	q := c.r.URL.Query()
	p.force = flag(q, "force")
	if q.Has("force") && p.Type != types.ApplyYAMLPatchType {
		return p, invalidOptions(field.Forbidden(field.NewPath("force"), "may not be specified for non-apply patch"))
	}
	var err error
	if p.validation, err = fieldValidation(c.r); err != nil {
		return p, err
	}
	if p.Data, err = io.ReadAll(c.r.Body); err != nil {
		return p, fmt.Errorf("read the body: %w", err)
	}
	if p.Type == types.JSONPatchType || p.Type == types.ApplyYAMLPatchType || p.validation == ignore {
		return p, nil // what a JSON patch makes is looked at afterwards; an apply is always strict
	}
	if _, ok := into.(*api.CustomObject); ok {
		return p, nil // so is what any patch makes of one
	}
	faults, err := s.codec.unknownFields(p.Data, kind, into)
	if err != nil {
		return p, apierrors.NewBadRequest(fmt.Sprintf("the patch does not fit a %s: %v", kind.Kind, err))
	}
	if len(faults) > 0 && p.validation == strict {
		return p, apierrors.NewBadRequest("strict decoding error: " + strings.Join(faults, ", "))
	}
	for _, f := range faults {
		addWarning(c.w, f)
	}
	return p, nil
}

// unknownFields lists the fields of a merge patch that the kind does not have.
// The directives of strategic merge patches are not fields.
func (c *codec) unknownFields(patch []byte, kind schema.GroupVersionKind, into runtime.Object) ([]string, error) {
	var doc map[string]any
	double, err := kjson.UnmarshalStrict(patch, &doc)
	if err != nil || doc == nil {
		return nil, errors.New("it is not a JSON object")
	}
	var out []string
	for _, e := range double {
		out = append(out, e.Error())
	}
	delete(doc, "kind")
	delete(doc, "apiVersion")
	plain, err := json.Marshal(withoutDirectives(doc))
	if err != nil {
		return nil, err
	}
	_, _, err = c.serializers[runtime.ContentTypeJSON].StrictSerializer.Decode(plain, &kind, into)
	strictErr, ok := runtime.AsStrictDecodingError(err)
	if !ok {
		return out, err
	}
	for _, e := range strictErr.Errors() {
		out = append(out, e.Error())
	}
	return out, nil
}

func withoutDirectives(v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, v := range x {
			if !strings.HasPrefix(k, "$") {
				out[k] = withoutDirectives(v)
			}
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, v := range x {
			out[i] = withoutDirectives(v)
		}
		return out
	}
	return v
}
