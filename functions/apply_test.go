package functions

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// shelf holds objects and answers with Conflict as the store does; before, if
// set, runs once ahead of the next write, as another client would.
type shelf struct {
	api.Objects
	objects map[string]api.Object
	version int
	writes  int
	before  func()
}

func key(r *api.Resource, ns, name string) string { return r.Plural + "/" + ns + "/" + name }

func (s *shelf) put(obj api.Object) api.Object {
	s.version++
	s.writes++
	c := obj.DeepCopyObject().(api.Object)
	c.SetResourceVersion(strconv.Itoa(s.version))
	s.objects[key(api.ResourceOf(c), c.GetNamespace(), c.GetName())] = c
	return c
}

func (s *shelf) race() {
	if b := s.before; b != nil {
		s.before = nil
		b()
	}
}

func (s *shelf) Get(_ context.Context, r *api.Resource, ns, name string) (api.Object, error) {
	if o := s.objects[key(r, ns, name)]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(r.GR(), name)
}

func (s *shelf) Create(ctx context.Context, obj api.Object) (api.Object, error) {
	s.race()
	r := api.ResourceOf(obj)
	if _, err := s.Get(ctx, r, obj.GetNamespace(), obj.GetName()); err == nil {
		return nil, apierrors.NewAlreadyExists(r.GR(), obj.GetName())
	}
	return s.put(obj), nil
}

func (s *shelf) Update(ctx context.Context, obj api.Object, _ api.UpdateOptions) (api.Object, error) {
	s.race()
	r := api.ResourceOf(obj)
	old, err := s.Get(ctx, r, obj.GetNamespace(), obj.GetName())
	if err != nil {
		return nil, err
	}
	if old.GetResourceVersion() != obj.GetResourceVersion() {
		return nil, apierrors.NewConflict(r.GR(), obj.GetName(), errors.New("stale"))
	}
	return s.put(obj), nil
}

func function() *api.Function {
	f := &api.Function{ObjectMeta: metav1.ObjectMeta{Name: "hi", UID: "u"}}
	f.Spec.Image = "hi:latest"
	f.Spec.Labels = map[string]string{"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "4"}
	f.Spec.Environment = map[string]string{"a": "1", "b": "2"}
	Default(f)
	return f
}

func (s *shelf) deployment(t *testing.T) *appsv1.Deployment {
	t.Helper()
	d, err := api.Get[*appsv1.Deployment](t.Context(), s, api.Deployments, "openfaas-fn", "hi")
	if err != nil {
		t.Fatal(err)
	}
	return d.DeepCopy()
}

func (s *shelf) apply(t *testing.T, f *api.Function, writes int) *appsv1.Deployment {
	t.Helper()
	s.writes = 0
	if err := Apply(t.Context(), s, f); err != nil {
		t.Fatal(err)
	}
	if s.writes != writes {
		t.Errorf("%d writes, want %d", s.writes, writes)
	}
	return s.deployment(t)
}

func TestApply(t *testing.T) {
	s, f := &shelf{objects: map[string]api.Object{}}, function()
	if d := s.apply(t, f, 2); *d.Spec.Replicas != 2 {
		t.Errorf("created with %d replicas, want scale.min", *d.Spec.Replicas)
	}
	s.apply(t, f, 0) // nothing to do

	// What defaulting, scaling and kubectl's rollout restart add is left alone.
	d := s.deployment(t)
	d.Spec.Replicas = new(int32(3))
	d.Spec.RevisionHistoryLimit = new(int32(10))
	d.Spec.Template.Spec.SchedulerName = "default-scheduler"
	d.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] = "now"
	d.Spec.Template.Annotations["mine"] = "x"
	s.put(d)
	s.apply(t, f, 0)

	// A variable less is a change; scaling, defaults and the restart stay.
	delete(f.Spec.Environment, "b")
	d = s.apply(t, f, 1)
	if n := len(d.Spec.Template.Spec.Containers[0].Env); n != 4 {
		t.Errorf("%d variables, want 4 (a and the platform's three)", n)
	}
	if a := d.Spec.Template.Annotations; a["kubectl.kubernetes.io/restartedAt"] != "now" || a["mine"] != "" {
		t.Errorf("annotations %v: want the restart kept and others gone", a)
	}
	if *d.Spec.Replicas != 3 || *d.Spec.RevisionHistoryLimit != 10 {
		t.Errorf("replicas %d, history %d: want 3 and 10 left alone", *d.Spec.Replicas, *d.Spec.RevisionHistoryLimit)
	}

	// Drift of a planned field is repaired.
	d.Spec.Template.Spec.Containers[0].Image = "other"
	s.put(d)
	if d = s.apply(t, f, 1); d.Spec.Template.Spec.Containers[0].Image != "hi:latest" {
		t.Errorf("image %s was not repaired", d.Spec.Template.Spec.Containers[0].Image)
	}

	// Replicas stay inside the bounds, and at zero.
	for have, want := range map[int32]int32{9: 4, 1: 2, 3: 3, 0: 0} {
		d.Spec.Replicas = new(have)
		s.put(d)
		if err := Apply(t.Context(), s, f); err != nil {
			t.Fatal(err)
		}
		if d = s.deployment(t); *d.Spec.Replicas != want {
			t.Errorf("%d replicas became %d, want %d", have, *d.Spec.Replicas, want)
		}
	}

	// Other bounds change the Deployment but not the pods.
	before := s.deployment(t)
	f.Spec.Labels = map[string]string{"com.openfaas.scale.max": "9"}
	d = s.apply(t, f, 2)
	if len(d.Spec.Template.Labels) != len(before.Spec.Template.Labels) || d.Labels["com.openfaas.scale.max"] != "9" {
		t.Errorf("template labels %v, deployment labels %v", d.Spec.Template.Labels, d.Labels)
	}

	// A service's address stays when its ports are repaired.
	svc := s.objects["services/openfaas-fn/hi"].DeepCopyObject().(*corev1.Service)
	svc.Spec.ClusterIP, svc.Spec.Ports[0].Port = "10.0.0.1", 99
	s.put(svc)
	s.apply(t, f, 1)
	if got := s.objects["services/openfaas-fn/hi"].(*corev1.Service).Spec; got.ClusterIP != "10.0.0.1" || got.Ports[0].Port != 8080 {
		t.Errorf("service %+v", got)
	}
}

func TestApplyRaces(t *testing.T) {
	s, f := &shelf{objects: map[string]api.Object{}}, function()
	d, _ := Plan(f)
	s.before = func() { s.put(d) } // created by another a moment earlier
	s.apply(t, f, 2)
	f.Spec.Image = "hi:2"
	s.before = func() {
		d := s.deployment(t)
		d.Spec.Replicas = new(int32(4)) // scaled by another meanwhile
		s.put(d)
	}
	if d := s.apply(t, f, 2); *d.Spec.Replicas != 4 || d.Spec.Template.Spec.Containers[0].Image != "hi:2" {
		t.Errorf("replicas %d, image %s: want both changes", *d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Image)
	}
}

func TestApplyRefusesWhatIsNotItsOwn(t *testing.T) {
	f := function()
	for name, meta := range map[string]metav1.ObjectMeta{
		"foreign":        {},
		"other function": {Labels: map[string]string{api.LabelFunction: "ho"}},
		"deleted":        {Labels: map[string]string{api.LabelFunction: "hi"}, DeletionTimestamp: &metav1.Time{}},
	} {
		meta.Name, meta.Namespace = "hi", "openfaas-fn"
		s := &shelf{objects: map[string]api.Object{}}
		s.put(&appsv1.Deployment{ObjectMeta: meta})
		if err := Apply(t.Context(), s, f); !apierrors.IsConflict(err) {
			t.Errorf("%s: got %v, want a Conflict", name, err)
		}
	}
	// The Deployment of the same function from before it was deleted is adopted.
	s, old := &shelf{objects: map[string]api.Object{}}, function()
	old.UID = "before"
	d, _ := Plan(old)
	s.put(d)
	if d := s.apply(t, f, 2); d.OwnerReferences[0].UID != "u" {
		t.Errorf("owner %v", d.OwnerReferences)
	}
}
