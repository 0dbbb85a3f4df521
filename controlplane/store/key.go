package store

import (
	"strings"

	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// id names an object.
type id struct {
	r               *api.Resource
	namespace, name string
}

func idOf(r *api.Resource, obj api.Object) id { return id{r, obj.GetNamespace(), obj.GetName()} }

// key is where the object lies below prefix; "" when there can't be such an
// object because a part of its name is missing or would lead elsewhere.
func (i id) key(prefix string) string {
	if i.name == "" || strings.Contains(i.name, "/") || strings.Contains(i.namespace, "/") || i.r.Namespaced == (i.namespace == "") {
		return ""
	}
	if !i.r.Namespaced {
		return i.dir(prefix) + i.name
	}
	return i.dir(prefix) + i.namespace + "/" + i.name
}

// dir is where all objects of the kind lie.
func (i id) dir(prefix string) string {
	group := i.r.Group
	if group == "" {
		group = "core"
	}
	return prefix + "/" + group + "/" + i.r.Plural + "/"
}

// parse is the reverse of key; false for a key that is none of ours. custom finds
// the kinds that definitions have made; nil is none.
func parse(prefix, key string, custom func(schema.GroupResource) *api.Resource) (id, bool) {
	rest, ok := strings.CutPrefix(key, prefix+"/")
	if !ok {
		return id{}, false
	}
	group, rest, _ := strings.Cut(rest, "/")
	plural, rest, _ := strings.Cut(rest, "/")
	if group == "core" {
		group = ""
	}
	r := builtIn(group, plural)
	if r == nil && custom != nil {
		r = custom(schema.GroupResource{Group: group, Resource: plural})
	}
	if r == nil {
		return id{}, false
	}
	i := id{r: r, name: rest}
	if r.Namespaced {
		i.namespace, i.name, _ = strings.Cut(rest, "/")
	}
	return i, i.key(prefix) == key
}

func builtIn(group, plural string) *api.Resource {
	for _, r := range api.Resources {
		if r.Plural == plural && r.Group == group {
			return r
		}
	}
	return nil
}
