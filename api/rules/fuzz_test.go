package rules_test

import (
	"bytes"
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"k8s.io/apimachinery/pkg/api/equality"
)

// FuzzDecode: what is stored, of whatever kind, is no object or one that can be
// stored and read again as the same.
func FuzzDecode(f *testing.F) {
	for i := range api.Resources {
		f.Add(i, []byte(`{"metadata":{"name":"x","creationTimestamp":null,"labels":{"a":"b"}},"spec":{},"status":{},"@write":"a-1"}`))
	}
	for i, s := range []string{`{`, `null`, `[]`, `{"metadata":null}`, `{"data":{"a":"%"}}`, `{"spec":{"replicas":1e3}}`, `{"spec":{"ports":[{"targetPort":"x"}]}}`, `{"metadata":{"creationTimestamp":"2026-11-30T04:00:00.5+01:00"}}`, `{"stringData":{"a":"b"}}`} {
		f.Add(i, []byte(s))
	}
	f.Fuzz(func(t *testing.T, kind int, data []byte) {
		r := api.Resources[uint(kind)%uint(len(api.Resources))]
		obj, err := rules.Decode(r, data)
		if err != nil {
			return
		}
		again := stable(t, r, obj)
		if !equality.Semantic.DeepEqual(obj.GetLabels(), again.GetLabels()) {
			t.Fatalf("%s from %q is read back with labels %v", r, data, again.GetLabels())
		}
	})
}

// stable stores an object, reads it back and wants it to be stored as the same again.
func stable(t *testing.T, r *api.Resource, obj api.Object) (again api.Object) {
	t.Helper()
	stored, err := rules.Encode(obj)
	if err != nil {
		t.Fatalf("%s cannot be stored: %v", r, err)
	}
	again, err = rules.Restore(r, stored)
	if err != nil {
		t.Fatalf("%s cannot be read back from %q: %v", r, stored, err)
	}
	if twice, err := rules.Encode(again); err != nil || !bytes.Equal(twice, stored) {
		t.Fatalf("%s is stored as %q, and then as %q (%v)", r, stored, twice, err)
	}
	return again
}
