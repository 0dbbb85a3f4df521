package stateful

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
)

// labelHash tells revisions apart, as in Kubernetes.
const labelHash = "controller.kubernetes.io/hash"

// patchOf is what a revision holds: the strategic merge patch that brings the set's
// template back, for that is how `kubectl rollout undo` uses it.
func patchOf(t *corev1.PodTemplateSpec) ([]byte, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode the pod template: %w", err)
	}
	template := map[string]any{}
	if err := json.Unmarshal(b, &template); err != nil {
		return nil, fmt.Errorf("encode the pod template: %w", err)
	}
	template["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
}

// templateOf is the template that a revision holds.
func templateOf(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var patch struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &patch); err != nil {
		return nil, fmt.Errorf("read revision %s: %w", r.Name, err)
	}
	return &patch.Spec.Template, nil
}

// newRevision is the revision of the set's template, with a number.
func newRevision(s *appsv1.StatefulSet, number int64, collisions int32) (*appsv1.ControllerRevision, error) {
	data, err := patchOf(&s.Spec.Template)
	if err != nil {
		return nil, err
	}
	h := fnv.New32a()
	_, _ = h.Write(data)
	if collisions > 0 {
		_, _ = fmt.Fprintf(h, "/%d", collisions)
	}
	hash := rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
	l := maps.Clone(s.Spec.Template.Labels)
	if l == nil {
		l = map[string]string{}
	}
	l[labelHash] = hash
	a := maps.Clone(s.Annotations)
	delete(a, corev1.LastAppliedConfigAnnotation)
	return &appsv1.ControllerRevision{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ControllerRevision"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: s.Name + "-" + hash, Labels: l, Annotations: a,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s, api.StatefulSets.GVK())},
		},
		Data: runtime.RawExtension{Raw: data}, Revision: number,
	}, nil
}

// sorted are a set's revisions by number.
func sorted(all []*appsv1.ControllerRevision) []*appsv1.ControllerRevision {
	out := slices.Clone(all)
	slices.SortFunc(out, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), strings.Compare(a.Name, b.Name))
	})
	return out
}

// matching is the newest of the sorted revisions that holds a template; nil is none.
func matching(all []*appsv1.ControllerRevision, t *corev1.PodTemplateSpec) *appsv1.ControllerRevision {
	for _, r := range slices.Backward(all) {
		if had, err := templateOf(r); err == nil && equality.Semantic.DeepEqual(had, t) {
			return r
		}
	}
	return nil
}

// next is the number after all of the sorted revisions.
func next(all []*appsv1.ControllerRevision) int64 {
	if len(all) == 0 {
		return 1
	}
	return all[len(all)-1].Revision + 1
}

// surplus are the revisions beyond the history that a set keeps, the oldest first. What
// is in use is not history.
func surplus(s *appsv1.StatefulSet, all []*appsv1.ControllerRevision, used map[string]bool) []*appsv1.ControllerRevision {
	keep := 10
	if s.Spec.RevisionHistoryLimit != nil {
		keep = int(*s.Spec.RevisionHistoryLimit)
	}
	idle := slices.DeleteFunc(slices.Clone(all), func(r *appsv1.ControllerRevision) bool { return used[r.Name] })
	return idle[:max(0, len(idle)-keep)]
}
