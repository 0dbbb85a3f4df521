package custom

import (
	"fmt"
	"strings"

	"github.com/podsnap/podsnap/api"
)

// Scale is what an object says of its number of replicas.
type Scale struct {
	Spec     int32
	Status   int32
	Selector string
}

// ScaleOf reads an object's; its kind must have Scale.
func (k *Kind) ScaleOf(obj *api.CustomObject) Scale {
	s, m := k.version.Subresources.Scale, obj.Fields()
	var out Scale
	out.Spec = count(m, s.SpecReplicasPath)
	out.Status = count(m, s.StatusReplicasPath)
	if s.LabelSelectorPath != nil {
		v, _ := lookUp(m, steps(*s.LabelSelectorPath))
		out.Selector, _ = v.(string)
	}
	return out
}

// ReplicasPath is where the number of replicas that is asked for stands.
func (k *Kind) ReplicasPath() []string { return steps(k.version.Subresources.Scale.SpecReplicasPath) }

// SetReplicas writes that number into an object of the caller's own. What stands on
// the way and is no object is an error.
func (k *Kind) SetReplicas(obj *api.CustomObject, n int32) error {
	m := obj.Fields()
	at := m
	path := k.ReplicasPath()
	for _, name := range path[:len(path)-1] {
		next, ok := at[name].(map[string]any)
		if !ok {
			if at[name] != nil {
				return fmt.Errorf("%s is no object", strings.Join(path, "."))
			}
			next = map[string]any{}
			at[name] = next
		}
		at = next
	}
	at[path[len(path)-1]] = int64(n)
	obj.SetFields(m)
	return nil
}

func steps(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

func count(m map[string]any, path string) int32 {
	v, _ := lookUp(m, steps(path))
	n, _ := number(v)
	return int32(n)
}
