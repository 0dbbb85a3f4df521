package controller_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/custom"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func definition(plural, kind string, short ...string) *apiextensionsv1.CustomResourceDefinition {
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.com"}}
	crd.Spec = apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
		Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind, ShortNames: short},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
			Name: "v1", Served: true, Storage: true,
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}},
		}},
	}
	return crd
}

// define makes a definition and waits until its kind is served.
func (c *cluster) define(crd *apiextensionsv1.CustomResourceDefinition) *api.Resource {
	c.t.Helper()
	c.create(crd)
	var r *api.Resource
	c.eventually(crd.Name, func() error {
		for _, s := range c.kinds.Set().Served {
			if s.GR().String() == crd.Name {
				r = s
				return nil
			}
		}
		return errors.New("it is not served")
	})
	return r
}

func customObject(r *api.Resource, namespace, name string, owners ...metav1.OwnerReference) *api.CustomObject {
	o := api.NewCustom(r)
	o.Namespace, o.Name, o.OwnerReferences = namespace, name, owners
	return o
}

func ownedBy(o api.Object) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: api.ResourceOf(o).GVK().GroupVersion().String(), Kind: api.ResourceOf(o).Kind, Name: o.GetName(), UID: o.GetUID()}
}

func (c *cluster) vanished(r *api.Resource, namespace, name string) func() error {
	return func() error {
		if _, err := c.Get(c.ctx, r, namespace, name); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s %s is there (%w)", r, name, err)
		}
		return nil
	}
}

// TestCustomObjectsEndWithTheirOwners: owners and dependents may be of any kind, in
// both directions, and go with their namespace.
func TestCustomObjectsEndWithTheirOwners(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		r := c.define(definition("widgets", "Widget"))
		must := func(o api.Object) api.Object {
			t.Helper()
			out, err := c.Create(c.ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		top := must(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "top"}})
		middle := must(customObject(r, "default", "middle", ownedBy(top)))
		must(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "low", OwnerReferences: []metav1.OwnerReference{ownedBy(middle)}}})
		must(customObject(r, "default", "alone"))
		if _, err := c.Delete(c.ctx, api.ConfigMaps, "default", "top", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("all that hung on it is gone", c.vanished(api.Secrets, "default", "low"))
		if err := c.vanished(r, "default", "middle")(); err != nil {
			t.Error(err)
		}
		if _, err := c.Get(c.ctx, r, "default", "alone"); err != nil {
			t.Error(err)
		}
		must(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
		must(customObject(r, "shop", "mine"))
		if _, err := c.Delete(c.ctx, api.Namespaces, "", "shop", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("the namespace is gone", c.vanished(api.Namespaces, "", "shop"))
		if err := c.vanished(r, "shop", "mine")(); err != nil {
			t.Error(err)
		}
	})
}

// TestDefinitionEnds: only when the last of its objects is gone.
func TestDefinitionEnds(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		r := c.define(definition("widgets", "Widget"))
		for i := range 20 {
			c.create(customObject(r, "default", fmt.Sprint("w", i)))
		}
		held := customObject(r, "default", "held")
		held.Finalizers = []string{"example.com/wait"}
		c.create(held)
		if _, err := c.Delete(c.ctx, api.CustomResourceDefinitions, "", "widgets.example.com", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("only what is held is left", func() error {
			l, err := c.List(c.ctx, r, api.ListOptions{})
			if err != nil || len(l.Items) != 1 {
				return fmt.Errorf("%d objects, %w", len(l.Items), err)
			}
			return nil
		})
		crd, err := api.Get[*apiextensionsv1.CustomResourceDefinition](c.ctx, c, api.CustomResourceDefinitions, "", "widgets.example.com")
		if err != nil || !custom.IsTrue(crd, apiextensionsv1.Terminating) {
			t.Fatalf("the definition is %v, %v", crd, err)
		}
		if _, err := api.Mutate(c.ctx, c.Objects, r, "default", "held", api.UpdateOptions{}, func(o *api.CustomObject) (bool, error) {
			o.Finalizers = nil
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
		c.eventually("the definition is gone", c.vanished(api.CustomResourceDefinitions, "", "widgets.example.com"))
		if len(c.kinds.Set().Stored) != 0 {
			t.Errorf("there are still the kinds %v", c.kinds.Set().Stored)
		}
		c.define(definition("widgets", "Widget"))
	})
}

// TestNamesAreTakenOnce: who comes later waits until the name is free.
func TestNamesAreTakenOnce(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.define(definition("widgets", "Widget", "w"))
		c.create(definition("gadgets", "Gadget", "w"))
		get := func() *apiextensionsv1.CustomResourceDefinition {
			crd, err := api.Get[*apiextensionsv1.CustomResourceDefinition](c.ctx, c, api.CustomResourceDefinitions, "", "gadgets.example.com")
			if err != nil {
				t.Fatal(err)
			}
			return crd
		}
		c.eventually("the conflict is told", func() error {
			if n := custom.Condition(get(), apiextensionsv1.NamesAccepted); n == nil || n.Status != apiextensionsv1.ConditionFalse || n.Reason != "ShortNamesConflict" {
				return fmt.Errorf("the condition is %+v", n)
			}
			return nil
		})
		if custom.IsTrue(get(), apiextensionsv1.Established) {
			t.Error("it is established though its names are not accepted")
		}
		if _, err := c.Delete(c.ctx, api.CustomResourceDefinitions, "", "widgets.example.com", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("the name is free", func() error {
			if crd := get(); !custom.IsTrue(crd, apiextensionsv1.Established) || !slices.Equal(crd.Status.StoredVersions, []string{"v1"}) {
				return fmt.Errorf("the status is %+v", crd.Status)
			}
			return nil
		})
	})
}
