package seamtest

import (
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

func mergePatch(data string) api.Patch {
	return api.Patch{Type: types.MergePatchType, Data: []byte(data)}
}

func patches(s *suite) {
	p := s.pod("p", "")
	p.Labels = map[string]string{"a": "1", "b": "2"}
	create(s, p)
	for _, c := range []struct {
		patch api.Patch
		check func(*corev1.Pod) any
		want  any
	}{
		{mergePatch(`{"metadata":{"labels":{"a":null,"c":"3"}}}`), func(p *corev1.Pod) any { return p.Labels }, map[string]string{"b": "2", "c": "3"}},
		{
			api.Patch{Type: types.StrategicMergePatchType, Data: []byte(`{"spec":{"containers":[{"name":"side","image":"x"}]}}`)},
			func(p *corev1.Pod) any { return containers(p) },
			[]string{"side", "main"},
		},
		{
			api.Patch{Type: types.StrategicMergePatchType, Data: []byte(`{"spec":{"containers":[{"name":"side","$patch":"delete"}]}}`)},
			func(p *corev1.Pod) any { return containers(p) },
			[]string{"main"},
		},
		{
			api.Patch{Type: types.JSONPatchType, Data: []byte(`[{"op":"test","path":"/metadata/labels/b","value":"2"},{"op":"replace","path":"/spec/containers/0/image","value":"y:2"}]`)},
			func(p *corev1.Pod) any { return p.Spec.Containers[0].Image },
			"y:2",
		},
		{
			api.Patch{Type: types.MergePatchType, Data: []byte(`{"metadata":{"labels":{"z":"z"}},"status":{"podIP":"10.0.0.1"}}`), Subresource: "status"},
			func(p *corev1.Pod) any { return []string{p.Labels["z"], p.Status.PodIP} },
			[]string{"", "10.0.0.1"},
		},
		{mergePatch(`{"status":{"podIP":"10.9.9.9"}}`), func(p *corev1.Pod) any { return p.Status.PodIP }, "10.0.0.1"},
	} {
		got, err := s.o.Patch(s.Context(), api.Pods, s.ns, "p", c.patch)
		if err != nil {
			s.Fatalf("%s: %v", c.patch.Data, err)
		}
		if d := cmp.Diff(c.want, c.check(got.(*corev1.Pod))); d != "" {
			s.Fatalf("%s (-want +got):\n%s", c.patch.Data, d)
		}
		if d := cmp.Diff(got, s.get(api.Pods, "p")); d != "" {
			s.Fatalf("%s: Get differs from the answer:\n%s", c.patch.Data, d)
		}
	}
	if p := s.get(api.Pods, "p"); p.GetGeneration() != 4 {
		s.Fatalf("generation is %d after three changes of the spec, want 4", p.GetGeneration())
	}
}

func containers(p *corev1.Pod) []string {
	var out []string
	for i := range p.Spec.Containers {
		out = append(out, p.Spec.Containers[i].Name)
	}
	return out
}

func patchRefuses(s *suite) {
	made := create(s, s.pod("p", ""))
	refused := func(err error) bool { return apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) }
	for _, c := range []struct {
		is    func(error) bool
		class string
		patch api.Patch
	}{
		{apierrors.IsBadRequest, "BadRequest", mergePatch(`{`)},
		{apierrors.IsBadRequest, "BadRequest", mergePatch(`[]`)},
		{apierrors.IsBadRequest, "BadRequest", mergePatch(`null`)},
		{apierrors.IsBadRequest, "BadRequest", mergePatch(`{"metadata":{"name":"q"}}`)},
		{apierrors.IsConflict, "Conflict", mergePatch(`{"metadata":{"uid":"other"}}`)},
		{apierrors.IsConflict, "Conflict", mergePatch(`{"metadata":{"resourceVersion":"1","labels":{"a":"b"}}}`)},
		{apierrors.IsInvalid, "Invalid", mergePatch(`{"metadata":{"labels":{"a":"not valid"}}}`)},
		{refused, "BadRequest or Invalid", mergePatch(`{"spec":{"containers":"none"}}`)},
		{refused, "BadRequest or Invalid", mergePatch(`{"spec":7}`)},
		{refused, "BadRequest or Invalid", api.Patch{Type: types.StrategicMergePatchType, Data: []byte(`{"spec":{"containers":{"a":1}}}`)}},
		{refused, "BadRequest or Invalid", api.Patch{Type: types.StrategicMergePatchType, Data: []byte(`x`)}},
		{apierrors.IsBadRequest, "BadRequest", api.Patch{Type: types.JSONPatchType, Data: []byte(`{}`)}},
		{apierrors.IsInvalid, "Invalid", api.Patch{Type: types.JSONPatchType, Data: []byte(`[{"op":"remove","path":"/metadata/labels/none"}]`)}},
		{apierrors.IsInvalid, "Invalid", api.Patch{Type: types.JSONPatchType, Data: []byte(`[{"op":"test","path":"/metadata/name","value":"q"}]`)}},
		{apierrors.IsRequestEntityTooLargeError, "RequestEntityTooLarge", api.Patch{Type: types.JSONPatchType, Data: manyOps(10_001)}},
		{apierrors.IsUnsupportedMediaType, "UnsupportedMediaType", api.Patch{Type: "text/plain", Data: []byte(`{}`)}},
	} {
		_, err := s.o.Patch(s.Context(), api.Pods, s.ns, "p", c.patch)
		if !c.is(err) {
			s.Errorf("%.80s: got %v, want %s", c.patch.Data, err, c.class)
		}
	}
	if got := s.get(api.Pods, "p"); got.GetResourceVersion() != made.ResourceVersion {
		s.Fatalf("a refused patch changed the object: %+v", got)
	}
}

func manyOps(n int) []byte {
	op := `{"op":"test","path":"/kind","value":"Pod"}`
	return fmt.Appendf(nil, "[%s]", strings.TrimSuffix(strings.Repeat(op+",", n), ","))
}
