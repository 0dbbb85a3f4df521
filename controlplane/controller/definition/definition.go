// Package definition brings CustomResourceDefinitions to life and to their end: it
// accepts their names, says that they are established, and deletes what there is of
// a kind when its definition is deleted.
package definition

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/custom"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// recheck is how often a definition is looked at whose objects are not gone yet,
// when no event says that one of them went.
const recheck = 5 * time.Second

// Config says what the controller works with.
type Config struct {
	Objects api.Objects
	View    *view.View
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controller keeps definitions.
type Controller struct {
	c    Config
	loop *loop.Loop[string]
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c}
	// One worker: of two definitions that want one name the second has to see that
	// the first has it.
	r.loop = loop.New(loop.Config{Name: "definition", Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.Definitions.OnChange(func(_ api.EventType, old, now *apiextensionsv1.CustomResourceDefinition) {
		for _, crd := range []*apiextensionsv1.CustomResourceDefinition{old, now} {
			if crd != nil {
				r.loop.Add(crd.Name)
				r.waiting(crd.Spec.Group)
			}
		}
	})
	c.View.Each(func(k view.Kind) {
		if k.Resource().Definition == nil {
			return
		}
		name := k.Resource().GR().String()
		k.OnChange(func(t api.EventType, _, _ api.Object) {
			if t != api.Deleted {
				return
			}
			if crd, ok := c.View.Definitions.Get("", name); ok && crd.DeletionTimestamp != nil {
				r.loop.Add(name)
			}
		})
	})
	return r
}

// waiting looks at those of a group that wait for a name of somebody else's.
func (r *Controller) waiting(group string) {
	for _, crd := range r.c.View.Definitions.List() {
		if crd.Spec.Group == group && !custom.IsTrue(crd, apiextensionsv1.NamesAccepted) {
			r.loop.Add(crd.Name)
		}
	}
}

// Run works until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	all, err := api.Items[*apiextensionsv1.CustomResourceDefinition](ctx, r.c.Objects, api.CustomResourceDefinitions, api.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("list the definitions: %w", err)
	}
	var crd *apiextensionsv1.CustomResourceDefinition
	var others []*apiextensionsv1.CustomResourceDefinition
	for _, o := range all {
		if o.Name == name {
			crd = o
		}
	}
	if crd == nil {
		return 0, nil
	}
	if crd.DeletionTimestamp != nil {
		return r.end(ctx, crd)
	}
	for _, o := range all {
		if o.Name != name && o.Spec.Group == crd.Spec.Group {
			others = append(others, o)
		}
	}
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	return 0, r.say(ctx, crd, func(crd *apiextensionsv1.CustomResourceDefinition) { crd.Status = decide(crd, others, now) })
}

// say writes a status, if it is another one.
func (r *Controller) say(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, change func(*apiextensionsv1.CustomResourceDefinition)) error {
	_, err := api.Mutate(ctx, r.c.Objects, api.CustomResourceDefinitions, "", crd.Name, api.UpdateOptions{Subresource: "status"}, func(o *apiextensionsv1.CustomResourceDefinition) (bool, error) {
		if o.UID != crd.UID {
			return false, nil
		}
		before := o.Status.DeepCopy()
		change(o)
		return !equality.Semantic.DeepEqual(*before, o.Status), nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// end deletes what there is of a kind, and then lets its definition go.
func (r *Controller) end(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) (time.Duration, error) {
	if !slices.Contains(crd.Finalizers, custom.Finalizer) {
		return 0, nil
	}
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	err := r.say(ctx, crd, func(crd *apiextensionsv1.CustomResourceDefinition) {
		set(crd, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionInProgress", Message: "CustomResource deletion is in progress",
		}, now)
	})
	if err != nil {
		return 0, err
	}
	left, err := r.empty(ctx, crd)
	if err != nil {
		return 0, fmt.Errorf("delete the objects of %s: %w", crd.Name, err)
	}
	if left > 0 {
		return recheck, nil
	}
	_, err = api.Mutate(ctx, r.c.Objects, api.CustomResourceDefinitions, "", crd.Name, api.UpdateOptions{}, func(o *apiextensionsv1.CustomResourceDefinition) (bool, error) {
		n := len(o.Finalizers)
		o.Finalizers = slices.DeleteFunc(o.Finalizers, func(s string) bool { return s == custom.Finalizer })
		return o.UID == crd.UID && len(o.Finalizers) < n, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("let go of %s: %w", crd.Name, err)
	}
	r.c.Log.Info("kind deleted", slog.String("definition", crd.Name))
	return 0, nil
}

// empty deletes all objects of a kind and answers with how many are still there:
// those with finalizers. It asks the store, which must not be behind when it says
// that there is nothing.
func (r *Controller) empty(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) (left int, err error) {
	var res *api.Resource
	for _, x := range r.c.View.Resources() {
		if x.Definition != nil && x.GR().String() == crd.Name {
			res = x
		}
	}
	if res == nil {
		return 0, nil // it was never one
	}
	l, err := r.c.Objects.List(ctx, res, api.ListOptions{})
	if err != nil {
		return 0, err
	}
	var g errgroup.Group
	g.SetLimit(16)
	for _, o := range l.Items {
		if o.GetDeletionTimestamp() != nil {
			continue
		}
		g.Go(func() error {
			_, err := r.c.Objects.Delete(ctx, res, o.GetNamespace(), o.GetName(), api.DeleteOptions{UID: o.GetUID(), Propagation: metav1.DeletePropagationBackground})
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	l, err = r.c.Objects.List(ctx, res, api.ListOptions{})
	return len(l.Items), err
}
