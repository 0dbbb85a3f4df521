package openapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	utilproto "k8s.io/kube-openapi/pkg/util/proto"

	"github.com/podsnap/podsnap/api"
)

func documents() *Documents {
	rs := make([]Resource, 0, len(api.Resources))
	for _, r := range api.Resources {
		rs = append(rs, Resource{Resource: r, Parts: []Part{{Name: "status", Kind: r.GVK(), Verbs: []string{"get", "update", "patch"}}}})
	}
	return New("v1.2.3", rs)
}

func unpacked(t *testing.T, d Document) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(d.Gzip))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDocumentsAreWhole reads each document as JSON and follows every reference.
func TestDocumentsAreWhole(t *testing.T) {
	d := documents()
	check := func(name, schemas, refs string, doc Document) {
		var whole map[string]any
		if err := json.Unmarshal(unpacked(t, doc), &whole); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		at := any(whole)
		for key := range strings.SplitSeq(schemas, ".") {
			at = at.(map[string]any)[key]
		}
		defs := at.(map[string]any)
		n := 0
		var follow func(v any)
		follow = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				if ref, ok := v["$ref"].(string); ok {
					n++
					if _, there := defs[strings.TrimPrefix(ref, refs)]; !there {
						t.Errorf("%s: %s leads nowhere", name, ref)
					}
				}
				for _, e := range v {
					follow(e)
				}
			case []any:
				for _, e := range v {
					follow(e)
				}
			}
		}
		follow(whole)
		if n == 0 {
			t.Errorf("%s has no references at all", name)
		}
		t.Logf("%s: %d schemas, %d references, %d bytes packed", name, len(defs), n, len(doc.Gzip))
	}
	for root, doc := range d.V3 {
		check(root, "components.schemas", "#/components/schemas/", doc())
	}
	check("version 2", "definitions", "#/definitions/", d.V2())
	for _, r := range api.Resources {
		b := unpacked(t, d.V3[Root(r.GVK().GroupVersion())]())
		tag := fmt.Sprintf(`{"group":%q,"version":%q,"kind":%q}`, r.Group, r.Version, r.Kind)
		if !bytes.Contains(b, []byte(`"x-kubernetes-group-version-kind":[`+tag)) {
			t.Errorf("%s is in no schema of its document", r)
		}
	}
}

// TestProtoIsUnderstood reads the document of version 2 as kubectl does.
func TestProtoIsUnderstood(t *testing.T) {
	doc := &openapi_v2.Document{}
	if err := proto.Unmarshal(unpacked(t, documents().V2Proto()), doc); err != nil {
		t.Fatal(err)
	}
	models, err := utilproto.NewOpenAPIData(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range api.Resources {
		m := models.LookupModel(nameOf(typeOf(r)))
		if m == nil {
			t.Errorf("%s is not there", r)
			continue
		}
		if _, ok := m.GetExtensions()["x-kubernetes-group-version-kind"]; !ok {
			t.Errorf("%s does not say which kind it is", r)
		}
	}
	spec := models.LookupModel("io.k8s.api.core.v1.PodSpec").(*utilproto.Kind)
	if got := spec.Fields["containers"].GetExtensions()["x-kubernetes-patch-merge-key"]; got != "name" {
		t.Errorf("containers are merged by %v, want name", got)
	}
	if !spec.IsRequired("containers") || spec.IsRequired("nodeName") {
		t.Errorf("of a pod %v are required", spec.RequiredFields)
	}
}

// TestDocumentsComeOutTheSame: clients keep them by their hash.
func TestDocumentsComeOutTheSame(t *testing.T) {
	a, b := documents(), documents()
	for root := range a.V3 {
		if x, y := a.V3[root]().Hash, b.V3[root]().Hash; x != y || x == "" {
			t.Errorf("%s: %q and %q", root, x, y)
		}
	}
	if a.V2().Hash != b.V2().Hash || a.V2Proto().Hash != b.V2Proto().Hash {
		t.Error("two documents of version 2 differ")
	}
}

// BenchmarkDocuments says what making all of version 3 costs, and what stays.
func BenchmarkDocuments(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		size := 0
		for _, doc := range documents().V3 {
			size += len(doc().Gzip)
		}
		b.ReportMetric(float64(size), "B-kept")
	}
}

// BenchmarkMerging says what the schemas for apply keep in memory.
func BenchmarkMerging(b *testing.B) {
	facts()
	var before, after runtime.MemStats
	kept := make([]any, 0, b.N)
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range b.N {
		kept = append(kept, newMerging())
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(b.N), "B-kept")
	runtime.KeepAlive(kept)
}
