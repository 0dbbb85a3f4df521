package store

import (
	"strings"

	"github.com/podsnap/podsnap/api"
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
	group := i.r.Group
	if group == "" {
		group = "core"
	}
	if !i.r.Namespaced {
		return prefix + "/" + group + "/" + i.r.Plural + "/" + i.name
	}
	return prefix + "/" + group + "/" + i.r.Plural + "/" + i.namespace + "/" + i.name
}

// parse is the reverse of key; false for a key that is none of ours.
func parse(prefix, key string) (id, bool) {
	rest, ok := strings.CutPrefix(key, prefix+"/")
	if !ok {
		return id{}, false
	}
	group, rest, _ := strings.Cut(rest, "/")
	plural, rest, _ := strings.Cut(rest, "/")
	if group == "core" {
		group = ""
	}
	for _, r := range api.Resources {
		if r.Plural != plural || r.Group != group {
			continue
		}
		i := id{r: r, name: rest}
		if r.Namespaced {
			i.namespace, i.name, _ = strings.Cut(rest, "/")
		}
		return i, i.key(prefix) == key
	}
	return id{}, false
}
