package rules_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// filler sets every field of an object to something.
type filler struct {
	n    int                  // makes values differ
	open map[reflect.Type]int // of the types that the present field is in
}

func (f *filler) number() int { f.n++; return f.n }

func (f *filler) text() string { return fmt.Sprint("v", f.number(), " ä") }

func (f *filler) fill(v reflect.Value) {
	if f.special(v) {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Struct:
		f.open[v.Type()]++
		for _, field := range v.Fields() {
			if f.open[v.Type()] < 3 || leaf(field.Kind()) { // a schema has schemas
				f.fill(field)
			}
		}
		f.open[v.Type()]--
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		f.fill(v.Index(0))
		f.fill(v.Index(1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			f.fill(key)
			f.fill(value)
			v.SetMapIndex(key, value)
		}
	case reflect.String:
		v.SetString(f.text())
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(f.number()))
	case reflect.Uint8:
		v.SetUint(uint64(f.number()) % 256)
	case reflect.Float64:
		v.SetFloat(float64(f.number()) + 0.25)
	default:
		panic(fmt.Sprintf("no value for a %s", v.Type()))
	}
}

func leaf(k reflect.Kind) bool {
	return k != reflect.Pointer && k != reflect.Slice && k != reflect.Map && k != reflect.Struct
}

// special fills types whose fields are not free.
func (f *filler) special(v reflect.Value) bool {
	at := time.Unix(1_700_000_000+int64(f.number()), 123_456_000)
	raw := []byte(fmt.Sprintf(`{"f:n":%d}`, f.number()))
	switch x := v.Addr().Interface().(type) {
	case *metav1.TypeMeta: // of an object within: that of a claim
		x.APIVersion, x.Kind = "v1", "PersistentVolumeClaim"
	case *metav1.Time:
		x.Time = at.Truncate(time.Second)
	case *metav1.MicroTime:
		x.Time = at
	case *resource.Quantity:
		*x = resource.MustParse(fmt.Sprint(f.number()*1000+500, "m"))
	case *intstr.IntOrString:
		*x = intstr.FromInt32(int32(f.number()))
		if f.n%2 == 0 {
			*x = intstr.FromString("50%")
		}
	case *metav1.FieldsV1:
		x.SetRawBytes(raw)
	case *runtime.RawExtension:
		x.Raw = raw
	case *apiextensionsv1.JSON:
		x.Raw = raw
	case *apiextensionsv1.JSONSchemaPropsOrBool: // one or the other
		x.Allows, x.Schema = true, &apiextensionsv1.JSONSchemaProps{Type: f.text()}
	case *apiextensionsv1.JSONSchemaPropsOrArray:
		x.Schema = &apiextensionsv1.JSONSchemaProps{Type: f.text()}
	case *apiextensionsv1.JSONSchemaPropsOrStringArray:
		x.Property = []string{f.text()}
	default:
		return false
	}
	return true
}

func full(r *api.Resource) api.Object {
	obj := r.New()
	f := filler{open: map[reflect.Type]int{}}
	f.fill(reflect.ValueOf(obj).Elem())
	obj.SetResourceVersion("")
	obj.GetObjectKind().SetGroupVersionKind(r.GVK())
	return obj
}

// TestStoredForms: every field of every kind is what it was, by the form in which it
// is stored and by the JSON of builds that knew no other.
func TestStoredForms(t *testing.T) {
	for _, r := range api.Resources {
		t.Run(r.String(), func(t *testing.T) {
			obj := full(r)
			stored, err := rules.Encode(obj)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(obj)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(stored, []byte("k8s\x00")) {
				t.Errorf("stored as %.20q, want protobuf", stored)
			}
			forms := map[string][]byte{"stored": stored, "JSON": text}
			forms["marked"] = rules.Mark(bytes.Clone(stored), "a-1")
			forms["marked JSON"] = rules.Mark(bytes.Clone(text), "a-1")
			for form, data := range forms {
				back, err := rules.Restore(r, data)
				if err != nil {
					t.Fatalf("%s: %v", form, err)
				}
				if !rules.Same(obj, back) { // a difference takes longer to tell
					t.Errorf("%s reads back as another object: %s", form, cmp.Diff(obj, back))
				}
			}
			again, err := rules.Encode(rules.WithRevision(obj, "7"))
			if err != nil || !bytes.Equal(again, stored) {
				t.Errorf("with a revision it is stored otherwise, %v", err)
			}
			t.Logf("%d bytes, JSON %d", len(stored), len(text))
		})
	}
}

// An object that says nothing is one all the same.
func TestStoredEmpty(t *testing.T) {
	for _, r := range api.Resources {
		obj := r.New()
		obj.GetObjectKind().SetGroupVersionKind(r.GVK())
		stored, err := rules.Encode(obj)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := rules.Restore(r, stored); err != nil || !rules.Same(obj, back) {
			t.Errorf("%s reads back as %+v, %v", r, back, err)
		}
	}
}

func TestMarksTellWritesApart(t *testing.T) {
	widget := api.NewCustom(&api.Resource{Group: "example.com", Version: "v1", Kind: "Widget", Plural: "widgets"})
	for _, obj := range []api.Object{pod("p"), &api.Function{}, widget} {
		var all []string
		for i := range 3 {
			value, err := rules.Encode(obj)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(rules.Mark(value, fmt.Sprint("process-", i))))
		}
		if all[0] == all[1] || all[1] == all[2] {
			t.Errorf("%T: two writes look the same", obj)
		}
	}
}

// A later build may know more fields, of the envelope and of the object.
func TestStoredByNewer(t *testing.T) {
	stored, err := rules.Encode(pod("p"))
	if err != nil {
		t.Fatal(err)
	}
	more := []byte{0xf8, 0x3f, 7, 0xfa, 0x3f, 1, 'x'} // field 1023, as a number and as a string
	stored = append(stored, more...)
	p := &corev1.Pod{}
	if err := p.Unmarshal(more); err != nil {
		t.Fatal(err)
	}
	if _, err := rules.Restore(api.Pods, stored); err != nil {
		t.Error(err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	node, err := rules.Encode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	if err != nil {
		t.Fatal(err)
	}
	for data, why := range map[string]string{
		string(node):               "it is a Node of v1",
		"k8s\x00":                  "what is stored is no Pod of v1",
		"k8s\x00\x12\xff":          "envelope",
		string(node[:len(node)-3]): "envelope",
		"k8s\x00\n\t\n\x02v1\x12\x03Pod\x12\x02\n\x7f":    "EOF",
		"k8s\x00\n\t\n\x02v1\x12\x03Pod\x12\x00\x1a\x01z": `content encoding "z" is not known`,
		"{": "Pod",
		"":  "Pod",
	} {
		if obj, err := rules.Restore(api.Pods, []byte(data)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: got %v, %v, want an error with %q", data, obj, err, why)
		}
	}
}

// FuzzRestore: what is stored, whatever wrote it, is no object or one that can be
// stored and read again as the same.
func FuzzRestore(f *testing.F) {
	for i, r := range api.Resources {
		obj := r.New()
		if r == api.Functions || r == api.Services {
			obj = full(r)
		}
		stored, err := rules.Encode(obj)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, stored)
	}
	f.Fuzz(func(t *testing.T, kind int, data []byte) {
		r := api.Resources[uint(kind)%uint(len(api.Resources))]
		obj, err := rules.Restore(r, data)
		if err != nil {
			return
		}
		stable(t, r, obj)
	})
}

func BenchmarkRestore(b *testing.B) {
	for _, r := range []*api.Resource{api.Pods, api.Deployments, api.Functions} {
		obj := full(r)
		stored, err := rules.Encode(obj)
		if err != nil {
			b.Fatal(err)
		}
		text, err := json.Marshal(obj)
		if err != nil {
			b.Fatal(err)
		}
		for form, data := range map[string][]byte{"protobuf": stored, "json": text} {
			b.Run(r.Kind+"/"+form, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					if _, err := rules.Restore(r, data); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
