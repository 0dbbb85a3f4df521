package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"

	jsonpatch "github.com/evanphx/json-patch/v5"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sigs.k8s.io/yaml"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/custom"
	"github.com/podsnap/podsnap/controlplane/fieldmanager"
	"github.com/podsnap/podsnap/controlplane/scale"
)

func scaleKind() schema.GroupVersionKind { return autoscalingv1.SchemeGroupVersion.WithKind("Scale") }

func scaleOf(obj api.Object) *autoscalingv1.Scale {
	now := replicasOf(obj)
	s := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec: autoscalingv1.ScaleSpec{Replicas: now.Spec}, Status: autoscalingv1.ScaleStatus{Replicas: now.Status, Selector: now.Selector},
	}
	s.SetGroupVersionKind(scaleKind())
	return s
}

func replicasOf(obj api.Object) custom.Scale {
	if c, ok := obj.(*api.CustomObject); ok {
		return custom.Of(c.Of).ScaleOf(c)
	}
	spec, status, selector := scale.Of(obj)
	out := custom.Scale{Status: status, Selector: selector}
	if *spec != nil {
		out.Spec = **spec
	}
	return out
}

func setReplicas(obj api.Object, n int32) error {
	if c, ok := obj.(*api.CustomObject); ok {
		return custom.Of(c.Of).SetReplicas(c, n)
	}
	spec, _, _ := scale.Of(obj)
	*spec = &n
	return nil
}

// replicasPath is where the replicas that are asked for stand in a kind.
func replicasPath(r *api.Resource) []string {
	if k := custom.Of(r); k != nil {
		return k.ReplicasPath()
	}
	return []string{"spec", "replicas"}
}

func (s *Server) getScale(c *call) error {
	obj, err := s.cfg.Objects.Get(c.ctx(), c.resource, c.namespace, c.name)
	if err != nil {
		return err
	}
	return s.answerScale(c, obj)
}

func (s *Server) answerScale(c *call, obj api.Object) error {
	f, err := s.codec.accept(c.r, true)
	if err != nil {
		return err
	}
	return s.codec.write(c.w, f, http.StatusOK, scaleOf(obj))
}

func (s *Server) updateScale(c *call) error {
	objects, err := s.target(c)
	if err != nil {
		return err
	}
	want := &autoscalingv1.Scale{}
	if err := s.codec.read(c.w, c.r, scaleKind(), want); err != nil {
		return err
	}
	if err := c.place(want); err != nil {
		return err
	}
	return s.scale(c, objects, func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return want, nil })
}

func (s *Server) patchScale(c *call) error {
	p, err := s.readPatch(c, scaleKind(), &autoscalingv1.Scale{})
	if err != nil {
		return err
	}
	if p.Type == types.ApplyYAMLPatchType {
		return s.applyScale(c, p)
	}
	objects, err := s.target(c)
	if err != nil {
		return err
	}
	return s.scale(c, objects, func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		return s.patchedScale(c, now, p)
	})
}

// applyScale applies to the replicas of the object itself: they are its own
// field, and have one owner whichever way they are set.
func (s *Server) applyScale(c *call, p patch) error {
	m, err := s.applier(c)
	if err != nil {
		return err
	}
	want := &autoscalingv1.Scale{}
	doc, err := yaml.YAMLToJSONStrict(p.Data)
	if err != nil {
		return apierrors.NewBadRequest("error decoding YAML: " + err.Error())
	}
	if err := s.codec.decode(c.w, strict, doc, scaleKind(), want); err != nil {
		return err
	}
	if err := c.place(want); err != nil {
		return err
	}
	if want.Spec.Replicas < 0 {
		return negativeReplicas(c, want)
	}
	conf := map[string]any{
		"apiVersion": c.resource.GVK().GroupVersion().String(), "kind": c.resource.Kind,
		"metadata": map[string]any{"name": c.name, "namespace": c.namespace, "uid": want.UID, "resourceVersion": want.ResourceVersion},
	}
	if err := unstructured.SetNestedField(conf, int64(want.Spec.Replicas), replicasPath(c.resource)...); err != nil {
		return err
	}
	data, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	obj, _, err := m.Apply(c.ctx(), c.resource, c.namespace, c.name, fieldmanager.Configuration{Data: data, Force: p.force})
	if err != nil {
		return err
	}
	return s.answerScale(c, obj)
}

func negativeReplicas(c *call, s *autoscalingv1.Scale) error {
	return apierrors.NewInvalid(scaleKind().GroupKind(), c.name, field.ErrorList{
		field.Invalid(field.NewPath("spec", "replicas"), s.Spec.Replicas, "must be greater than or equal to 0"),
	})
}

// scale writes the replicas that change answers. A resourceVersion in its
// answer, or a uid, must be the object's.
func (s *Server) scale(c *call, objects api.Objects, change func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error)) error {
	obj, err := api.Mutate(c.ctx(), objects, c.resource, c.namespace, c.name, api.UpdateOptions{}, func(obj api.Object) (bool, error) {
		now := scaleOf(obj)
		want, err := change(now)
		if err != nil {
			return false, err
		}
		if rv := want.ResourceVersion; rv != "" && rv != now.ResourceVersion {
			return false, apierrors.NewConflict(c.resource.GR(), c.name, fmt.Errorf("the object has been modified; please apply your changes to the latest version and try again"))
		}
		if want.Spec.Replicas < 0 {
			return false, negativeReplicas(c, want)
		}
		if err := setReplicas(obj, want.Spec.Replicas); err != nil {
			return false, apierrors.NewBadRequest(err.Error())
		}
		return want.Spec.Replicas != now.Spec.Replicas, nil
	})
	if err != nil {
		return err
	}
	return s.answerScale(c, obj)
}

// patchedScale applies a patch; a Scale has no lists, so a strategic merge
// patch is a merge patch. A resourceVersion counts only if the patch names it.
func (s *Server) patchedScale(c *call, now *autoscalingv1.Scale, p patch) (*autoscalingv1.Scale, error) {
	doc, err := json.Marshal(now)
	if err != nil {
		return nil, err
	}
	if p.Type == types.JSONPatchType {
		ops, err := jsonpatch.DecodePatch(p.Data)
		if err != nil {
			return nil, apierrors.NewBadRequest("the patch cannot be read: " + err.Error())
		}
		if doc, err = ops.Apply(doc); err != nil {
			return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "patch", schema.GroupResource{}, "", err.Error(), 0, false)
		}
	} else if doc, err = jsonpatch.MergePatch(doc, p.Data); err != nil {
		return nil, apierrors.NewBadRequest("the patch cannot be applied: " + err.Error())
	}
	out := &autoscalingv1.Scale{}
	return out, s.codec.decode(c.w, p.validation, doc, scaleKind(), out)
}
