package openapi

import (
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
)

// Resource is a kind with what else lies below its objects.
type Resource struct {
	*api.Resource
	Parts []Part
}

// Part is a subresource.
type Part struct {
	Name  string
	Kind  schema.GroupVersionKind
	Type  reflect.Type // of what is read and written there; nil is the object itself
	Verbs []string     // get, create, update, patch
}

// operation is one of an OpenAPI document.
type operation struct {
	Kind       kindTag             `json:"x-kubernetes-group-version-kind"`
	Action     string              `json:"x-kubernetes-action"`
	Consumes   []string            `json:"consumes,omitempty"` // version 2
	Parameters []parameter         `json:"parameters,omitempty"`
	Body       *content            `json:"requestBody,omitempty"`
	Responses  map[string]response `json:"responses"`
}

type parameter struct {
	Name     string `json:"name"`
	In       string `json:"in"`
	Required bool   `json:"required,omitempty"`
	Type     string `json:"type,omitempty"`   // version 2
	Schema   *shape `json:"schema,omitempty"` // version 3, and a body's in 2
}

type content struct {
	Content map[string]media `json:"content"`
}

type media struct {
	Schema *shape `json:"schema"`
}

type response struct {
	Description string           `json:"description"`
	Content     map[string]media `json:"content,omitempty"` // version 3
	Schema      *shape           `json:"schema,omitempty"`  // version 2
}

// Root is where a version of a group lies, with no slash before it.
func Root(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.Group + "/" + gv.Version
}

// Parameters of queries.
var (
	forWrites  = []string{"dryRun", "fieldManager", "fieldValidation"}
	forPatches = append(slices.Clone(forWrites), "force")
	forDeletes = []string{"dryRun", "gracePeriodSeconds", "propagationPolicy"}
	forLists   = []string{"allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "resourceVersionMatch", "sendInitialEvents", "timeoutSeconds", "watch"}
)

// paths lists the operations on a resource.
func (d dialect) paths(r Resource, out map[string]map[string]operation) {
	collection, in := "/"+Root(r.GVK().GroupVersion())+"/"+r.Plural, []string(nil)
	if r.Namespaced {
		collection = "/" + Root(r.GVK().GroupVersion()) + "/namespaces/{namespace}/" + r.Plural
		in = []string{"namespace"}
	}
	o := ops{d, r.Resource, r.GVK(), in}
	object, list := d.refsTo(r.Resource)
	out[collection] = map[string]operation{
		"get":    o.make("list", nil, list, forLists),
		"post":   o.make("post", object, object, forWrites),
		"delete": o.make("deletecollection", nil, nil, append(slices.Clone(forDeletes), "fieldSelector", "labelSelector")),
	}
	o.in = append(slices.Clone(in), "name")
	out[collection+"/{name}"] = map[string]operation{
		"get":    o.make("get", nil, object, nil),
		"put":    o.make("put", object, object, forWrites),
		"patch":  o.make("patch", nil, object, forPatches),
		"delete": o.make("delete", nil, object, forDeletes),
	}
	for _, p := range r.Parts {
		o := ops{d, r.Resource, p.Kind, o.in}
		t := object
		if p.Type != nil {
			t = d.ref(p.Type)
		}
		methods := map[string]operation{}
		for _, v := range p.Verbs {
			switch v {
			case "get":
				methods["get"] = o.make("get", nil, t, nil)
			case "create":
				methods["post"] = o.make("post", t, t, forWrites)
			case "update":
				methods["put"] = o.make("put", t, t, forWrites)
			case "patch":
				methods["patch"] = o.make("patch", nil, t, forPatches)
			}
		}
		out[collection+"/{name}/"+p.Name] = methods
	}
}

// ops makes operations on one kind.
type ops struct {
	dialect
	of   *api.Resource
	kind schema.GroupVersionKind // of what is read and written
	in   []string                // parameters of the path
}

func (o ops) make(action string, body, answer *shape, query []string) operation {
	op := operation{Kind: kindTag(o.kind), Action: action, Responses: map[string]response{"200": o.answer(answer)}}
	for _, name := range o.in {
		op.Parameters = append(op.Parameters, o.parameter(name, "path"))
	}
	for _, name := range query {
		op.Parameters = append(op.Parameters, o.parameter(name, "query"))
	}
	medias, s := []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}, (*shape)(nil)
	switch {
	case action == "patch":
		medias, s = patches(o.of), &shape{Type: "object"}
	case body != nil:
		s = body
	default:
		return op
	}
	if !o.v3 {
		op.Consumes = medias
		op.Parameters = append(op.Parameters, parameter{Name: "body", In: "body", Required: true, Schema: s})
		return op
	}
	op.Body = &content{map[string]media{}}
	for _, m := range medias {
		op.Body.Content[m] = media{s}
	}
	return op
}

func (o ops) parameter(name, in string) parameter {
	p := parameter{Name: name, In: in, Required: in == "path"}
	if o.v3 {
		p.Schema = &shape{Type: "string"}
	} else {
		p.Type = "string"
	}
	return p
}

func (o ops) answer(t *shape) response {
	r := response{Description: "OK"}
	switch {
	case t == nil:
	case o.v3:
		r.Content = map[string]media{"application/json": {t}}
	default:
		r.Schema = t
	}
	return r
}

// patches are the formats of patches to a kind. Kinds that Kubernetes does not
// define itself have no strategic merge patch.
func patches(r *api.Resource) []string {
	out := []string{string(types.ApplyYAMLPatchType), string(types.JSONPatchType), string(types.MergePatchType)}
	if r != api.Functions && r.Definition == nil {
		out = append(out, string(types.StrategicMergePatchType))
	}
	return out
}
