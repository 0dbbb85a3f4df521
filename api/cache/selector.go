package cache

import (
	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// selector is what a list or a watch wants to see.
type selector struct {
	namespace string
	labels    labels.Selector // nil is all
	fields    fields.Selector // nil is all
	as        *api.Resource   // the version of a custom kind that is wanted; nil for other kinds

	// What fields demands of the two fields that are asked for most: most
	// objects fail that, and their fields need not be listed.
	name, node     string
	byName, byNode bool
}

func selectorOf(r *api.Resource, namespace string, l labels.Selector, f fields.Selector) selector {
	if l != nil && l.Empty() {
		l = nil
	}
	if f != nil && f.Empty() {
		f = nil
	}
	s := selector{namespace: namespace, labels: l, fields: f}
	s.name, s.byName = s.exactly("metadata.name")
	if r.Definition != nil {
		s.as = r
		return s
	}
	s.node, s.byNode = s.exactly("spec.nodeName")
	return s
}

// all says whether every object of the namespace is selected.
func (s selector) all() bool { return s.labels == nil && s.fields == nil }

// matches reports whether obj is selected. set, when not nil, answers with its
// fields, so that they are listed once for all watches.
func (s selector) matches(obj api.Object, set func() fields.Set) bool {
	if s.namespace != "" && obj.GetNamespace() != s.namespace {
		return false
	}
	if s.byName && obj.GetName() != s.name || s.byNode && nodeOf(obj) != s.node {
		return false
	}
	if s.labels != nil && !s.labels.Matches(labels.Set(obj.GetLabels())) {
		return false
	}
	if s.fields == nil {
		return true
	}
	if s.as != nil {
		return s.fields.Matches(api.FieldSet(s.as.As(obj)))
	}
	if set == nil {
		return s.fields.Matches(api.FieldSet(obj))
	}
	return s.fields.Matches(set())
}

// exactly is the value that the selector demands of a field.
func (s selector) exactly(field string) (string, bool) {
	if s.fields == nil {
		return "", false
	}
	for _, r := range s.fields.Requirements() {
		if r.Field == field && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) {
			return r.Value, true
		}
	}
	return "", false
}

// nodeOf is the pod's or the volume's node; "" for other kinds, which have no such
// field.
func nodeOf(obj api.Object) string {
	switch o := obj.(type) {
	case *corev1.Pod:
		return o.Spec.NodeName
	case *corev1.PersistentVolume:
		return api.NodeOfVolume(o)
	}
	return ""
}
