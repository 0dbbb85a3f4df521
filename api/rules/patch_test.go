package rules_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// FuzzPatch: whatever a patch says, it changes nothing that it was given, does
// not panic, and makes either a StatusError or an object that can be stored
// and read back the same.
func FuzzPatch(f *testing.F) {
	for _, seed := range []string{
		`{}`, `[]`, `null`, `{"spec":null}`, `{"metadata":{"labels":{"a":null}}}`,
		`[{"op":"add","path":"/metadata/labels/x","value":"y"}]`,
		`[{"op":"copy","from":"/spec","path":"/spec/containers/-"}]`,
		`[{"op":"move","from":"/metadata","path":"/metadata/labels/x"}]`,
		`[{"op":"remove","path":"/spec/containers/00"}]`,
		`{"spec":{"containers":[{"name":"main","$patch":"delete"}]}}`,
		`{"spec":{"containers":[{"$patch":"replace"},{"name":"x"}]}}`,
		`{"spec":{"$setElementOrder/containers":[{"name":"main"}],"containers":[{"name":"main","image":"y"}]}}`,
		`{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"creationTimestamp":"x"}}`,
		`{"spec":{"$retainKeys":["containers"],"terminationGracePeriodSeconds":1e400}}`,
		`{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"1e400"}}}]}}`,
		"{\"metadata\":{\"labels\":{\"\\ud800\":\"\xff\"}}}",
	} {
		for kind := range 3 {
			f.Add(kind, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, kind int, data []byte) {
		old := pod("p")
		before := old.DeepCopy()
		pt := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType}[(kind%3+3)%3]
		next, err := rules.Patch(old, api.Patch{Type: pt, Data: data})
		if !equality.Semantic.DeepEqual(old, before) {
			t.Fatalf("the patch %q changed what it was given", data)
		}
		if err != nil {
			if s := apierrors.APIStatus(nil); !errors.As(err, &s) {
				t.Fatalf("%v is no StatusError", err)
			}
			return
		}
		if _, err := rules.Update(old, next, api.UpdateOptions{}, nil); err != nil {
			return
		}
		stored, err := rules.Encode(next)
		if err != nil {
			t.Fatalf("can't be stored: %v", err)
		}
		back, err := rules.Restore(api.Pods, stored)
		if err != nil {
			t.Fatalf("can't be read back: %v", err)
		}
		back.SetResourceVersion(next.GetResourceVersion())
		if !equality.Semantic.DeepEqual(next, back) {
			t.Fatalf("%s reads back as another object", stored)
		}
	})
}

func TestDecodeIsStrictInTypesOnly(t *testing.T) {
	for data, ok := range map[string]bool{
		`{"spec":{"nodeName":"n"},"unknown":1}`:                            true,
		`{"spec":{"NodeName":7}}`:                                          true, // names are case-sensitive: this one is unknown
		`{"spec":{"nodeName":7}}`:                                          false,
		`{"spec":{"terminationGracePeriodSeconds":1.5}}`:                   false,
		`{"metadata":{"creationTimestamp":"yesterday"}}`:                   false,
		`{"metadata":{"labels":["a"]}}`:                                    false,
		`{"spec":{"containers":[{"resources":{"limits":{"cpu":"1mm"}}}]}}`: false,
		`{`: false,
		``:  false,
	} {
		obj, err := rules.Decode(api.Pods, []byte(data))
		if (err == nil) != ok || (!ok && !apierrors.IsBadRequest(err)) {
			t.Errorf("%s: got %v, want ok: %v", data, err, ok)
		}
		if ok && (obj.(*corev1.Pod).Kind != "Pod" || obj.(*corev1.Pod).APIVersion != "v1") {
			t.Errorf("%s: kind is %+v", data, obj.GetObjectKind())
		}
	}
}

func TestPatchBounds(t *testing.T) {
	// Each copy doubles the labels' size: 40 of them would make terabytes.
	var ops []string
	for range 40 {
		ops = append(ops, `{"op":"copy","from":"/metadata/annotations","path":"/metadata/annotations/x"}`)
	}
	p := pod("p")
	p.Annotations = map[string]string{"a": strings.Repeat("x", 1000)}
	_, err := rules.Patch(p, api.Patch{Type: types.JSONPatchType, Data: []byte("[" + strings.Join(ops, ",") + "]")})
	if err == nil {
		t.Fatal("a patch that grows without bound was applied")
	}
	_, err = rules.Patch(p, api.Patch{Type: types.MergePatchType, Data: []byte(strings.Repeat(" ", rules.MaxPatchBytes+1))})
	if !apierrors.IsRequestEntityTooLargeError(err) {
		t.Fatalf("a patch of %d bytes: got %v, want RequestEntityTooLarge", rules.MaxPatchBytes+1, err)
	}
}
