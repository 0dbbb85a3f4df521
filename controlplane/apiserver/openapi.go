package apiserver

import (
	"net/http"
	"strings"

	"github.com/podsnap/podsnap/api"
)

// The OpenAPI documents list the operations and their parameters; they have no
// schemas yet. That is what kubectl needs to know in order to leave the
// validation of a manifest to the server (fieldValidation) instead of asking
// for --validate=false. Patch formats are left out on purpose: where they are
// named kubectl looks for merge keys in schemas, else it uses its own. The
// version 2 document is what kubectl checks manifests of kind List with: it
// passes over kinds that have no schema there. As protobuf it is the one field
// swagger: "2.0".

type openAPI struct {
	OpenAPI string                       `json:"openapi"`
	Info    map[string]string            `json:"info"`
	Paths   map[string]map[string]openOp `json:"paths"`
}

type openOp struct {
	Kind       kindTag             `json:"x-kubernetes-group-version-kind"`
	Action     string              `json:"x-kubernetes-action"`
	Parameters []openParam         `json:"parameters,omitempty"`
	Responses  map[string]openText `json:"responses"`
}

type kindTag struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

type openParam struct {
	Name     string            `json:"name"`
	In       string            `json:"in"`
	Required bool              `json:"required,omitempty"`
	Schema   map[string]string `json:"schema"`
}

type openText struct {
	Description string `json:"description"`
}

// rootOf is where a resource's version lies, with no slash before it.
func rootOf(r *api.Resource) string {
	if r.Group == "" {
		return "api/" + r.Version
	}
	return "apis/" + r.Group + "/" + r.Version
}

// openAPIs makes the document of each version, by its root.
func openAPIs(resources []*api.Resource) map[string]*openAPI {
	out := map[string]*openAPI{}
	for _, r := range resources {
		root := rootOf(r)
		d := out[root]
		if d == nil {
			d = &openAPI{
				OpenAPI: "3.0.0", Info: map[string]string{"title": "Podsnap", "version": apiVersion},
				Paths: map[string]map[string]openOp{},
			}
			out[root] = d
		}
		collection, params := "/"+root+"/"+r.Plural, []openParam{}
		if r.Namespaced {
			collection = "/" + root + "/namespaces/{namespace}/" + r.Plural
			params = append(params, pathParam("namespace"))
		}
		d.Paths[collection] = map[string]openOp{
			"get":    operation(r, "list", params, "labelSelector", "fieldSelector", "limit", "continue", "watch", "resourceVersion"),
			"post":   operation(r, "post", params, "fieldValidation"),
			"delete": operation(r, "deletecollection", params, "labelSelector", "fieldSelector"),
		}
		params = append(params, pathParam("name"))
		d.Paths[collection+"/{name}"] = map[string]openOp{
			"get":    operation(r, "get", params),
			"put":    operation(r, "put", params, "fieldValidation"),
			"patch":  operation(r, "patch", params, "fieldValidation"),
			"delete": operation(r, "delete", params, "gracePeriodSeconds", "propagationPolicy"),
		}
	}
	return out
}

func pathParam(name string) openParam {
	return openParam{Name: name, In: "path", Required: true, Schema: map[string]string{"type": "string"}}
}

func operation(r *api.Resource, action string, path []openParam, query ...string) openOp {
	op := openOp{
		Kind: kindTag(r.GVK()), Action: action, Parameters: append([]openParam(nil), path...),
		Responses: map[string]openText{"200": {"OK"}},
	}
	for _, q := range query {
		op.Parameters = append(op.Parameters, openParam{Name: q, In: "query", Schema: map[string]string{"type": "string"}})
	}
	return op
}

func (s *Server) mountOpenAPI() {
	type link struct {
		URL string `json:"serverRelativeURL"`
	}
	paths := map[string]link{}
	for root, doc := range openAPIs(api.Resources) {
		d := document{legacy: newBody(doc)}
		s.mountDocument("/openapi/v3/"+root, d)
		// Clients keep a document for ever under its hash.
		paths[root] = link{"/openapi/v3/" + root + "?hash=" + d.legacy.etag[1:len(d.legacy.etag)-1]}
	}
	s.mountDocument("/openapi/v3", document{legacy: newBody(map[string]any{"paths": paths})})
	s.mux.Get("/openapi/v2", s.open("get", func(w http.ResponseWriter, r *http.Request) error {
		if !strings.Contains(r.Header.Get("Accept"), "proto-openapi") {
			writeJSON(w, http.StatusOK, map[string]any{"swagger": "2.0", "info": map[string]string{"title": "Podsnap", "version": apiVersion}, "paths": map[string]any{}})
			return nil
		}
		w.Header().Set("Content-Type", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write([]byte("\x0a\x032.0")) // the client has gone: nobody is left to tell
		return nil
	}))
}
