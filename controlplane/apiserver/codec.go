package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/podsnap/podsnap/api"
)

// codec reads and writes objects in the wire's formats.
type codec struct {
	serializers map[string]runtime.SerializerInfo // by media type
}

func newCodec() *codec {
	s := runtime.NewScheme()
	for _, r := range builtIn() {
		gv := r.GVK().GroupVersion()
		s.AddKnownTypeWithName(r.GVK(), r.New())
		s.AddKnownTypeWithName(gv.WithKind(r.Kind+"List"), r.NewList())
		metav1.AddToGroupVersion(s, gv)
	}
	utilruntime.Must(autoscalingv1.AddToScheme(s))
	utilruntime.Must(policyv1.AddToScheme(s))
	utilruntime.Must(metricsv1.AddToScheme(s))
	utilruntime.Must(authenticationv1.AddToScheme(s))
	utilruntime.Must(authorizationv1.AddToScheme(s))
	s.AddKnownTypes(schema.GroupVersion{Version: "v1"}, bindings()...)
	c := &codec{serializers: map[string]runtime.SerializerInfo{}}
	for _, i := range serializer.NewCodecFactory(s).SupportedMediaTypes() {
		c.serializers[i.MediaType] = i
	}
	return c
}

// How unknown and duplicate fields are met (the fieldValidation parameter).
const (
	strict = "Strict"
	warn   = "Warn"
	ignore = "Ignore"
)

func fieldValidation(r *http.Request) (string, error) {
	switch v := r.URL.Query().Get("fieldValidation"); v {
	case "":
		return warn, nil
	case strict, warn, ignore:
		return v, nil
	default:
		return "", apierrors.NewBadRequest(fmt.Sprintf("fieldValidation: unsupported value %q: supported values: Ignore, Warn, Strict", v))
	}
}

// read decodes the request's body into the object. The kind may be missing in
// the body; another one than expected is an error.
func (c *codec) read(w http.ResponseWriter, r *http.Request, want schema.GroupVersionKind, into runtime.Object) error {
	validation, err := fieldValidation(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("read the body: %w", err)
	}
	info, err := c.bodyType(r)
	if err != nil {
		return err
	}
	if len(body) == 0 {
		return apierrors.NewBadRequest("the body is empty; expected a " + want.Kind)
	}
	return decodeBy(info, w, validation, body, want, into)
}

// decode is read for JSON that is at hand.
func (c *codec) decode(w http.ResponseWriter, validation string, body []byte, want schema.GroupVersionKind, into runtime.Object) error {
	return decodeBy(c.serializers[runtime.ContentTypeJSON], w, validation, body, want, into)
}

func decodeBy(info runtime.SerializerInfo, w http.ResponseWriter, validation string, body []byte, want schema.GroupVersionKind, into runtime.Object) error {
	if c, ok := into.(*api.CustomObject); ok {
		return decodeCustom(info.MediaType, w, validation, body, want, c)
	}
	decoder := info.StrictSerializer
	if validation == ignore {
		decoder = info.Serializer
	}
	_, got, err := decoder.Decode(body, &want, into)
	strictErr, onlyStrict := runtime.AsStrictDecodingError(err)
	switch {
	case got != nil && got.Kind != "" && *got != want:
		return apierrors.NewBadRequest(fmt.Sprintf("the object in the body is a %s of %s; this URL expects a %s of %s",
			quoted(got.Kind), quoted(got.GroupVersion().String()), quoted(want.Kind), quoted(want.GroupVersion().String())))
	case onlyStrict && validation == warn:
		for _, e := range strictErr.Errors() {
			addWarning(w, e.Error())
		}
	case err != nil:
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", want.Kind, want.Version, want.Kind, err))
	}
	into.GetObjectKind().SetGroupVersionKind(want)
	return nil
}

// bodyType finds the serializer of the body; JSON when nothing is said.
func (c *codec) bodyType(r *http.Request) (runtime.SerializerInfo, error) {
	ct := r.Header.Get("Content-Type")
	if ct == "" {
		return c.serializers[runtime.ContentTypeJSON], nil
	}
	media, _, err := mime.ParseMediaType(ct)
	if info, ok := c.serializers[media]; ok && err == nil {
		return info, nil
	}
	return runtime.SerializerInfo{}, unsupportedMedia(ct, []string{runtime.ContentTypeJSON, runtime.ContentTypeYAML, runtime.ContentTypeProtobuf})
}

// addWarning puts a text where kubectl shows it, once.
func addWarning(w http.ResponseWriter, text string) {
	line := "299 - " + strconv.Quote(text)
	if !slices.Contains(w.Header()["Warning"], line) {
		w.Header().Add("Warning", line)
	}
}

// Forms that a client may ask an answer in, besides the object itself.
const (
	asTable       = "Table"
	asPartial     = "PartialObjectMetadata"
	asPartialList = "PartialObjectMetadataList"
)

// form is an answer's format: the media type, and what objects are turned into.
type form struct {
	media string
	as    string // "" is the object as it is
}

// accept picks the first format in the client's list that can be served.
// What has no protobuf form is JSON or YAML; of the forms a Table has none.
func (c *codec) accept(r *http.Request, protobuf bool, as ...string) (form, error) {
	header := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(header) == "" {
		return form{media: runtime.ContentTypeJSON}, nil
	}
	for clause := range strings.SplitSeq(header, ",") {
		media, params, err := mime.ParseMediaType(clause)
		if err != nil {
			continue
		}
		f := form{media: media, as: params["as"]}
		if f.media == "*/*" || f.media == "application/*" {
			f.media = runtime.ContentTypeJSON
		}
		if f.as == "" {
			if _, ok := c.serializers[f.media]; ok && (f.media != runtime.ContentTypeProtobuf || protobuf) {
				return f, nil
			}
			continue
		}
		if f.media != runtime.ContentTypeJSON && (f.media != runtime.ContentTypeProtobuf || f.as == asTable) || params["g"] != metav1.GroupName || params["v"] != "v1" {
			continue
		}
		if slices.Contains(as, f.as) {
			return f, nil
		}
	}
	return form{}, notAcceptable()
}

// encodeEvent is an event of a watch in the stream's format: a line of JSON, or a
// protobuf message behind its length, in which the object is as it is alone.
func (c *codec) encodeEvent(media, eventType string, obj any) ([]byte, error) {
	o, ok := obj.(runtime.Object)
	if media != runtime.ContentTypeProtobuf || !ok {
		b, err := json.Marshal(struct {
			Type   string `json:"type"`
			Object any    `json:"object"`
		}{eventType, obj})
		return append(b, '\n'), err
	}
	info := c.serializers[media]
	var object, out bytes.Buffer
	if err := info.Serializer.Encode(o, &object); err != nil {
		return nil, err
	}
	ev := &metav1.WatchEvent{Type: eventType, Object: runtime.RawExtension{Raw: object.Bytes()}}
	err := info.StreamSerializer.Serializer.Encode(ev, info.StreamSerializer.Framer.NewFrameWriter(&out))
	return out.Bytes(), err
}

// stamped is obj with its kind written in it. The original is shared and stays
// as it is.
func stamped(obj api.Object) api.Object {
	gvk := api.ResourceOf(obj).GVK()
	if obj.GetObjectKind().GroupVersionKind() == gvk {
		return obj
	}
	v := reflect.New(reflect.TypeOf(obj).Elem())
	v.Elem().Set(reflect.ValueOf(obj).Elem())
	out := v.Interface().(api.Object)
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out
}

// write answers with an object whose kind is set.
func (c *codec) write(w http.ResponseWriter, f form, code int, obj runtime.Object) error {
	if f.media == runtime.ContentTypeJSON {
		writeJSON(w, code, obj)
		return nil
	}
	w.Header().Set("Content-Type", f.media)
	w.WriteHeader(code)
	return c.serializers[f.media].Serializer.Encode(obj, w)
}

func quoted(s string) string { return strconv.Quote(s) }

func list(words []string) string { return strings.Join(words, ", ") }
