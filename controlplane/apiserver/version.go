package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/horizontal"
)

// otherVersion is a built-in kind in another version, or group, than that of api.Resources. It is a
// matter of the wire alone: what comes in is turned into the stored version before
// anything is done with it, what goes out is turned back last of all.
type otherVersion struct {
	*api.Resource               // as it is served
	stored        *api.Resource // as everybody else knows it
	show          func(stored api.Object) api.Object
	take          func(shown api.Object) api.Object
	// field is the stored kind's name of a field that is selected by, "" if that is
	// none; nil: they have the same.
	field func(shown string) string
}

// otherVersions are all of them.
var otherVersions = []*otherVersion{{
	Resource: &api.Resource{
		Group: autoscalingv1.GroupName, Version: "v1", Kind: api.HorizontalPodAutoscalers.Kind, Plural: api.HorizontalPodAutoscalers.Plural,
		Singular: api.HorizontalPodAutoscalers.Singular, Short: api.HorizontalPodAutoscalers.Short, Namespaced: true, Status: true,
		New:     func() api.Object { return &autoscalingv1.HorizontalPodAutoscaler{} },
		NewList: func() runtime.Object { return &autoscalingv1.HorizontalPodAutoscalerList{} },
	},
	stored: api.HorizontalPodAutoscalers,
	show:   func(o api.Object) api.Object { return horizontal.ToV1(o.(*autoscalingv2.HorizontalPodAutoscaler)) },
	take:   func(o api.Object) api.Object { return horizontal.FromV1(o.(*autoscalingv1.HorizontalPodAutoscaler)) },
}, regardingEvents}

// described are the kinds of which there may be objects, in all versions in which they
// are served, the best one of each first.
func described() []*api.Resource {
	out := slices.Clone(api.Resources)
	for _, v := range otherVersions {
		out = append(out, v.Resource)
	}
	return out
}

// builtIn are the kinds that are always there.
func builtIn() []*api.Resource { return append(described(), api.Vacant...) }

// newCall is a call of the resource, which may be one of another version.
func newCall(r *api.Resource) *call {
	for _, v := range otherVersions {
		if v.Resource == r {
			return &call{resource: v.stored, version: v}
		}
	}
	return &call{resource: r}
}

// wire is the resource as the client names it.
func (c *call) wire() *api.Resource {
	if c.version != nil {
		return c.version.Resource
	}
	return c.resource
}

// shown is an object as the client sees it, with its kind in it. The original is
// shared and stays as it is.
func (c *call) shown(obj api.Object) api.Object {
	if c.version == nil {
		return stamped(obj)
	}
	out := c.version.show(obj)
	out.GetObjectKind().SetGroupVersionKind(c.version.GVK())
	return out
}

// taken is the reverse of shown.
func (c *call) taken(obj api.Object) api.Object {
	if c.version == nil {
		return obj
	}
	out := c.version.take(obj)
	out.GetObjectKind().SetGroupVersionKind(c.resource.GVK())
	return out
}

// body reads the object that is in the request.
func (s *Server) body(c *call) (api.Object, error) {
	obj := c.wire().New()
	if err := s.codec.read(c.w, c.r, c.wire().GVK(), obj); err != nil {
		return nil, err
	}
	obj = c.taken(obj)
	return obj, c.place(obj)
}

// patchShown patches what the client sees of an object, in another version than the
// stored one. A resourceVersion counts if the patch names another than there is.
func (s *Server) patchShown(c *call, objects api.Objects, p patch) (api.Object, error) {
	decode := func(r *api.Resource, doc []byte) (api.Object, error) {
		obj := r.New()
		return obj, s.codec.decode(c.w, p.validation, doc, r.GVK(), obj)
	}
	return api.Mutate(c.ctx(), objects, c.resource, c.namespace, c.name, api.UpdateOptions{Subresource: c.subresource}, func(now api.Object) (bool, error) {
		rv := now.GetResourceVersion()
		next, err := rules.PatchAs(c.version.Resource, c.shown(now), p.Patch, decode)
		if err != nil {
			return false, err
		}
		if named := next.GetResourceVersion(); named != "" && named != rv {
			return false, apierrors.NewConflict(c.resource.GR(), c.name, errors.New("the object has been modified; please apply your changes to the latest version and try again"))
		}
		reflect.ValueOf(now).Elem().Set(reflect.ValueOf(c.taken(next)).Elem())
		now.SetResourceVersion(rv)
		return true, nil
	})
}

// configuration is what is applied, as one of the stored version: with the fields
// alone that it names, so that nobody comes to own others.
func (s *Server) configuration(c *call, data []byte) ([]byte, error) {
	if c.version == nil {
		return data, nil
	}
	doc, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, apierrors.NewBadRequest("error decoding YAML: " + err.Error())
	}
	obj := c.wire().New()
	if err := s.codec.decode(c.w, strict, doc, c.wire().GVK(), obj); err != nil {
		return nil, err
	}
	var said, filled map[string]any
	if err := utiljson.Unmarshal(doc, &said); err != nil {
		return nil, apierrors.NewBadRequest("the configuration is not an object")
	}
	if filled, err = runtime.DefaultUnstructuredConverter.ToUnstructured(c.taken(obj)); err != nil {
		return nil, fmt.Errorf("convert the configuration: %w", err)
	}
	empty, err := runtime.DefaultUnstructuredConverter.ToUnstructured(c.taken(c.wire().New()))
	if err != nil {
		return nil, fmt.Errorf("convert the configuration: %w", err)
	}
	return json.Marshal(onlySaid(filled, said, empty))
}

// onlySaid is filled without what is there only because the types have no way to
// leave it away: fields that are not said, and are in an empty object too.
func onlySaid(filled, said, empty map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range filled {
		was, same := empty[k]
		now, named := said[k]
		inner, isMap := v.(map[string]any)
		emptyMap, _ := was.(map[string]any)
		saidMap, _ := now.(map[string]any)
		switch {
		case isMap && (same || named):
			if rest := onlySaid(inner, saidMap, emptyMap); len(rest) > 0 || named {
				out[k] = rest
			}
		case named || !same || !reflect.DeepEqual(v, was):
			out[k] = v
		}
	}
	return out
}
