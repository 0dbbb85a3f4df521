package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/custom"
)

// warn tells the client what it should know about a kind, or about the object that it
// has written.
func (c *call) warn(written api.Object) {
	if k := custom.Of(c.resource); k != nil && k.Deprecated() != "" {
		addWarning(c.w, k.Deprecated())
	}
	if crd, ok := written.(*apiextensionsv1.CustomResourceDefinition); ok {
		for _, text := range custom.Warnings(crd) {
			addWarning(c.w, text)
		}
	}
	if written != nil && c.subresource == "" {
		for _, text := range admission.Warnings(written) {
			addWarning(c.w, text)
		}
	}
}

// listKind is what a list of a kind's objects is called.
func listKind(r *api.Resource) string {
	if k := custom.Of(r); k != nil {
		return k.ListKind()
	}
	return r.Kind + "List"
}

// decodeCustom is decodeBy for objects of custom kinds, whose fields their schema
// says.
func decodeCustom(media string, w http.ResponseWriter, validation string, body []byte, want schema.GroupVersionKind, into *api.CustomObject) error {
	wrong := func(err error) error {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", want.Kind, want.Version, want.Kind, err))
	}
	var faults []error
	switch media {
	case runtime.ContentTypeYAML:
		_, err := yaml.YAMLToJSONStrict(body)
		doc, plain := yaml.YAMLToJSON(body)
		if plain != nil {
			return wrong(plain)
		}
		if err != nil {
			faults = append(faults, err)
		}
		body = doc
	case runtime.ContentTypeJSON:
	default:
		return unsupportedMedia(media, []string{runtime.ContentTypeJSON, runtime.ContentTypeYAML})
	}
	// Fields that are there twice, and those that metadata does not have.
	var all map[string]any
	twice, err := kjson.UnmarshalStrict(body, &all)
	if err != nil {
		return wrong(err)
	}
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Meta            json.RawMessage `json:"metadata"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &head); err != nil {
		return wrong(err)
	}
	if got := head.GroupVersionKind(); got.Kind != "" && got != want {
		return apierrors.NewBadRequest(fmt.Sprintf("the object in the body is a %s of %s; this URL expects a %s of %s",
			quoted(got.Kind), quoted(got.GroupVersion().String()), quoted(want.Kind), quoted(want.GroupVersion().String())))
	}
	var meta struct {
		Meta metav1.ObjectMeta `json:"metadata"`
	}
	if len(head.Meta) > 0 {
		unknown, err := kjson.UnmarshalStrict(fmt.Appendf(nil, `{"metadata":%s}`, head.Meta), &meta, kjson.DisallowUnknownFields)
		if err != nil {
			return wrong(err)
		}
		faults = append(faults, unknown...)
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, into); err != nil {
		return wrong(err)
	}
	into.SetGroupVersionKind(want)
	faults = append(faults, twice...)
	for _, path := range custom.Of(into.Of).Prune(into) {
		faults = append(faults, fmt.Errorf("unknown field %q", path))
	}
	switch {
	case len(faults) == 0 || validation == ignore:
	case validation == strict:
		return wrong(runtime.NewStrictDecodingError(faults))
	default:
		for _, f := range faults {
			addWarning(w, f.Error())
		}
	}
	return nil
}

// customColumns are those of a custom kind, whose cells are read by paths.
func customColumns(k *custom.Kind) []column {
	out := []column{nameColumn()}
	for _, c := range k.Columns() {
		out = append(out, column{c.TableColumnDefinition, func(obj api.Object, now time.Time) any {
			m, err := obj.(*api.CustomObject).Unstructured()
			if err != nil {
				return nil
			}
			return c.Cell(m, now)
		}})
	}
	return out
}

// readCustomOptions reads a body of DeleteOptions, which clients of a custom kind
// may send as of its own group: it is no kind of the codec.
func readCustomOptions(body []byte, d *metav1.DeleteOptions) error {
	if err := yaml.Unmarshal(body, d); err != nil {
		return apierrors.NewBadRequest("the body cannot be handled as DeleteOptions: " + err.Error())
	}
	return nil
}
