package apiserver

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/openapi"
)

// rootOf is where a resource's version lies, with no slash before it.
func rootOf(r *api.Resource) string { return openapi.Root(r.GVK().GroupVersion()) }

// withParts are the resources with their subresources, as documents show them.
func withParts(resources []*api.Resource) []openapi.Resource {
	others := map[string]reflect.Type{
		"Scale": reflect.TypeFor[autoscalingv1.Scale](), "Eviction": reflect.TypeFor[policyv1.Eviction](), "Binding": reflect.TypeFor[corev1.Binding](),
		"TokenRequest": reflect.TypeFor[authenticationv1.TokenRequest](),
	}
	out := make([]openapi.Resource, 0, len(resources))
	for _, r := range resources {
		or := openapi.Resource{Resource: r}
		for _, p := range parts(r) {
			or.Parts = append(or.Parts, openapi.Part{Name: p.name, Kind: p.kind, Type: others[p.kind.Kind], Verbs: p.verbs})
		}
		out = append(out, or)
	}
	return out
}

// mountOpenAPI lays out the documents. They are made when they are first asked
// for: the start does not wait for them, and who never asks has none in memory.
func (s *Server) mountOpenAPI() {
	s.mux.Get("/openapi/v3", s.open(func(w http.ResponseWriter, r *http.Request) error {
		type link struct {
			URL string `json:"serverRelativeURL"`
		}
		paths := map[string]link{}
		for root, doc := range s.surface().open.V3 {
			// Clients keep a document for ever under its hash.
			paths[root] = link{"/openapi/v3/" + root + "?hash=" + doc().Hash}
		}
		document{legacy: newBody(map[string]any{"paths": paths})}.serve(w, r)
		return nil
	}))
	for root, doc := range s.builtIn.V3 {
		s.mux.Get("/openapi/v3/"+root, s.open(func(w http.ResponseWriter, r *http.Request) error {
			return serveSchemas(w, r, doc(), "application/json")
		}))
	}
	s.mux.Get("/openapi/v2", s.open(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Vary", "Accept")
		if strings.Contains(r.Header.Get("Accept"), "proto-openapi") {
			// With the @ that clients ask with the type would not be one.
			return serveSchemas(w, r, s.surface().open.V2Proto(), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
		}
		return serveSchemas(w, r, s.surface().open.V2(), "application/json")
	}))
}

func serveSchemas(w http.ResponseWriter, r *http.Request, d openapi.Document, contentType string) error {
	etag := `"` + d.Hash + `"`
	h := w.Header()
	h.Set("ETag", etag)
	h.Add("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if r.URL.Query().Get("hash") == d.Hash {
		h.Set("Cache-Control", "public, immutable")
	}
	h.Set("Content-Type", contentType)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(d.Gzip) // the client has gone: nobody is left to tell
		return nil
	}
	z, err := gzip.NewReader(bytes.NewReader(d.Gzip))
	if err != nil {
		return fmt.Errorf("unpack the document: %w", err)
	}
	w.WriteHeader(http.StatusOK)
	_, err = io.Copy(w, z) //nolint:gosec // it is our own
	if err != nil {
		return fmt.Errorf("unpack the document: %w", err)
	}
	return nil
}
