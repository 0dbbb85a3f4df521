package cache

import (
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/podsnap/podsnap/api"
)

// selector is what a list or a watch wants to see.
type selector struct {
	namespace string
	labels    labels.Selector // nil is all
	fields    fields.Selector // nil is all
}

func selectorOf(namespace string, l labels.Selector, f fields.Selector) selector {
	if l != nil && l.Empty() {
		l = nil
	}
	if f != nil && f.Empty() {
		f = nil
	}
	return selector{namespace, l, f}
}

// all says whether every object of the namespace is selected.
func (s selector) all() bool { return s.labels == nil && s.fields == nil }

// matches reports whether obj is selected. set, when not nil, answers with its
// fields, so that they are listed once for all watches.
func (s selector) matches(obj api.Object, set func() fields.Set) bool {
	if s.namespace != "" && obj.GetNamespace() != s.namespace {
		return false
	}
	if s.labels != nil && !s.labels.Matches(labels.Set(obj.GetLabels())) {
		return false
	}
	if s.fields == nil {
		return true
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
