package custom

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"

	"github.com/podsnap/podsnap/api"
)

// Kinds are the custom kinds that there are. The store that holds the definitions
// tells it of them, before it shows them to anybody else: whoever sees a definition
// as established finds its kind. The zero value has none; nil too.
type Kinds struct {
	mu   sync.Mutex
	defs map[string]*defined
	now  atomic.Pointer[Set]
}

// Set is what kinds there were at one moment.
type Set struct {
	// Number is another one whenever something has changed.
	Number uint64
	// Served are the kinds in all versions in which they are served, the best one
	// first, by groups.
	Served []*api.Resource
	// Stored has each kind once, those too that are not served any more or not yet.
	Stored []*api.Resource
}

// defined is what a definition has made.
type defined struct {
	uid         types.UID
	generation  int64
	established bool
	ending      bool
	names       apiextensionsv1.CustomResourceDefinitionNames

	served []*api.Resource
	stored *api.Resource
}

var none Set

// Set is what there is now.
func (k *Kinds) Set() *Set {
	if k == nil {
		return &none
	}
	if s := k.now.Load(); s != nil {
		return s
	}
	return &none
}

// For finds a kind by what it is called on the wire, in any version that is served;
// nil when there is none.
func (k *Kinds) For(gvk schema.GroupVersionKind) *api.Resource {
	for _, r := range k.Set().Served {
		if r.GVK() == gvk {
			return r
		}
	}
	return nil
}

// Define is an api.Define.
func (k *Kinds) Define(name string, crd *apiextensionsv1.CustomResourceDefinition) *api.Resource {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.defs == nil {
		k.defs = map[string]*defined{}
	}
	old := k.defs[name]
	if crd == nil {
		if old != nil {
			delete(k.defs, name)
			k.publish()
		}
		return nil
	}
	d := &defined{
		uid: crd.UID, generation: crd.Generation, established: IsTrue(crd, apiextensionsv1.Established),
		ending: crd.DeletionTimestamp != nil, names: crd.Status.AcceptedNames,
	}
	if old != nil && old.same(d) {
		return old.stored
	}
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		r := newKind(crd, v).resource
		if v.Storage {
			d.stored = r
		}
		if v.Served && d.established {
			d.served = append(d.served, r)
		}
	}
	if d.stored == nil {
		return nil // no definition that was admitted
	}
	k.defs[name] = d
	k.publish()
	return d.stored
}

func (d *defined) same(o *defined) bool {
	return d.uid == o.uid && d.generation == o.generation && d.established == o.established && d.ending == o.ending &&
		d.names.Singular == o.names.Singular && slices.Equal(d.names.ShortNames, o.names.ShortNames) && slices.Equal(d.names.Categories, o.names.Categories)
}

func (k *Kinds) publish() {
	next := &Set{Number: k.Set().Number + 1}
	for _, name := range slices.Sorted(maps.Keys(k.defs)) {
		next.Served = append(next.Served, k.defs[name].served...)
		next.Stored = append(next.Stored, k.defs[name].stored)
	}
	slices.SortStableFunc(next.Served, func(a, b *api.Resource) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), -version.CompareKubeAwareVersionStrings(a.Version, b.Version), strings.Compare(a.Plural, b.Plural))
	})
	k.now.Store(next)
}

// IsTrue tells whether a condition of a definition holds.
func IsTrue(crd *apiextensionsv1.CustomResourceDefinition, t apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	c := Condition(crd, t)
	return c != nil && c.Status == apiextensionsv1.ConditionTrue
}

// Condition finds a condition of a definition; nil when it is not there.
func Condition(crd *apiextensionsv1.CustomResourceDefinition, t apiextensionsv1.CustomResourceDefinitionConditionType) *apiextensionsv1.CustomResourceDefinitionCondition {
	for i := range crd.Status.Conditions {
		if c := &crd.Status.Conditions[i]; c.Type == t {
			return c
		}
	}
	return nil
}
