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

	"github.com/podsnap/podsnap/api"
)

func patchTypes() []types.PatchType {
	return []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType}
}

func (s *Server) patch(c *call) error {
	p, err := s.readPatch(c, c.resource.GVK(), c.resource.New())
	if err != nil {
		return err
	}
	if c.resource == api.Functions && p.Type == types.StrategicMergePatchType {
		// Like every kind that Kubernetes does not define itself: clients ask
		// for this answer and fall back to a merge patch.
		return unsupportedMedia(string(p.Type), []string{string(types.JSONPatchType), string(types.MergePatchType)})
	}
	p.Subresource = c.subresource
	out, err := s.cfg.Objects.Patch(c.ctx(), c.resource, c.namespace, c.name, p)
	if err != nil {
		return err
	}
	return s.answer(c, http.StatusOK, out)
}

// readPatch reads the body; into is an empty object of the patched kind, by
// which unknown fields are found.
func (s *Server) readPatch(c *call, kind schema.GroupVersionKind, into runtime.Object) (api.Patch, error) {
	ct := c.r.Header.Get("Content-Type")
	media, _, _ := mime.ParseMediaType(ct) // what does not parse is not in the list
	p := api.Patch{Type: types.PatchType(media)}
	if !slices.Contains(patchTypes(), p.Type) {
		names := make([]string, 0, 3)
		for _, t := range patchTypes() {
			names = append(names, string(t))
		}
		return p, unsupportedMedia(ct, names)
	}
	if err := noDryRun(c.r.URL.Query()["dryRun"]); err != nil {
		return p, err
	}
	validation, err := fieldValidation(c.r)
	if err != nil {
		return p, err
	}
	if p.Data, err = io.ReadAll(c.r.Body); err != nil {
		return p, fmt.Errorf("read the body: %w", err)
	}
	if p.Type == types.JSONPatchType || validation == ignore {
		return p, nil
	}
	faults, err := s.codec.unknownFields(p.Data, kind, into)
	if err != nil {
		return p, apierrors.NewBadRequest(fmt.Sprintf("the patch does not fit a %s: %v", kind.Kind, err))
	}
	if len(faults) > 0 && validation == strict {
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
	if err := json.Unmarshal(patch, &doc); err != nil || doc == nil {
		return nil, errors.New("it is not a JSON object")
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
		return nil, err
	}
	var out []string
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
