package openapi

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Document is one as it is kept: compressed, for nearly all who ask take it so.
type Document struct {
	Gzip []byte
	Hash string // of what is in it
}

// Documents are those of all kinds. Each is made when it is first asked for.
type Documents struct {
	V3      map[string]func() Document // by the root of its version of a group
	V2      func() Document            // of all, in JSON
	V2Proto func() Document            // the same as protobuf
}

// New makes the documents of an API of that version.
func New(version string, resources []Resource) *Documents {
	byRoot := map[string][]Resource{}
	for _, r := range resources {
		root := Root(r.GVK().GroupVersion())
		byRoot[root] = append(byRoot[root], r)
	}
	d := &Documents{V3: map[string]func() Document{}}
	for root, rs := range byRoot {
		d.V3[root] = sync.OnceValue(func() Document {
			return compress(func(w io.Writer) error { return version3.write(w, version, rs) })
		})
	}
	d.V2 = sync.OnceValue(func() Document {
		return compress(func(w io.Writer) error { return version2.write(w, version, resources) })
	})
	d.V2Proto = sync.OnceValue(func() Document {
		return compress(func(w io.Writer) error { return writeProto(w, version, resources) })
	})
	return d
}

// compress makes a document of what write writes. That depends on nothing but
// the program, so a fault is the program's.
func compress(write func(io.Writer) error) Document {
	var out bytes.Buffer
	z, sum := gzip.NewWriter(&out), sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(z, sum), 32<<10)
	for _, step := range []func() error{func() error { return write(w) }, w.Flush, z.Close} {
		if err := step(); err != nil {
			panic(fmt.Errorf("openapi: %w", err))
		}
	}
	return Document{Gzip: bytes.Clone(out.Bytes()), Hash: fmt.Sprintf("%X", sum.Sum(nil))}
}

// write writes a document, definition by definition: all of them at once would
// be some ten megabytes.
func (d dialect) write(w io.Writer, version string, resources []Resource) error {
	head, before, after := `"openapi":"3.0.0"`, `"components":{"schemas":{`, "}}}\n"
	if !d.v3 {
		head, before, after = `"swagger":"2.0"`, `"definitions":{`, "}}\n"
	}
	paths := map[string]map[string]operation{}
	for _, r := range resources {
		d.paths(r, paths)
	}
	p, err := json.Marshal(paths)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, `{%s,"info":{"title":"Podsnap","version":%q},"paths":%s,%s`, head, version, p, before); err != nil {
		return err
	}
	types, kinds := definitions(resources)
	for i, name := range slices.Sorted(maps.Keys(types)) {
		s := d.definition(types[name])
		s.Kinds = kinds[name]
		b, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		comma := ","
		if i == 0 {
			comma = ""
		}
		if _, err := fmt.Fprintf(w, "%s%q:%s", comma, name, b); err != nil {
			return err
		}
	}
	for _, r := range resources {
		if err := d.writeCustom(w, r.Resource); err != nil {
			return err
		}
	}
	_, err = io.WriteString(w, after)
	return err
}

// definitions are the types that the resources need, and which of them are kinds.
func definitions(resources []Resource) (types map[string]reflect.Type, kinds map[string][]kindTag) {
	types, kinds = map[string]reflect.Type{}, map[string][]kindTag{}
	add := func(t reflect.Type, k schema.GroupVersionKind) {
		reach(t, types)
		if k.Empty() {
			return
		}
		if tag := kindTag(k); !slices.Contains(kinds[nameOf(t)], tag) {
			kinds[nameOf(t)] = append(kinds[nameOf(t)], tag)
		}
	}
	for _, r := range resources {
		gvk := r.GVK()
		if r.Definition != nil {
			add(reflect.TypeFor[metav1.ObjectMeta](), schema.GroupVersionKind{})
			add(reflect.TypeFor[metav1.ListMeta](), schema.GroupVersionKind{})
			add(reflect.TypeFor[metav1.DeleteOptions](), gvk.GroupVersion().WithKind("DeleteOptions"))
			continue
		}
		add(typeOf(r.Resource), gvk)
		add(listOf(r.Resource), gvk.GroupVersion().WithKind(gvk.Kind+"List"))
		add(reflect.TypeFor[metav1.DeleteOptions](), gvk.GroupVersion().WithKind("DeleteOptions"))
		for _, p := range r.Parts {
			if p.Type != nil {
				add(p.Type, p.Kind)
			}
		}
	}
	add(reflect.TypeFor[metav1.Status](), schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	return types, kinds
}
