package seamtest

import (
	"errors"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func createFillsAndRefuses(s *suite) {
	in := s.configMap("a", "k", "v")
	in.UID, in.Generation = "mine", 7
	got := create(s, in)
	switch {
	case got.UID == "" || got.UID == "mine":
		s.Fatalf("uid is %q, want a fresh one", got.UID)
	case got.ResourceVersion == "" || got.ResourceVersion == "0":
		s.Fatalf("resourceVersion is %q", got.ResourceVersion)
	case got.CreationTimestamp.IsZero():
		s.Fatal("no creationTimestamp")
	case got.CreationTimestamp.Nanosecond() != 0:
		s.Fatalf("creationTimestamp %v has more than whole seconds, which its wire form has not", got.CreationTimestamp.Time)
	case got.Generation != 1:
		s.Fatalf("generation is %d, want 1", got.Generation)
	case got.Data["k"] != "v":
		s.Fatalf("data is %v", got.Data)
	case got.Kind != "ConfigMap" || got.APIVersion != "v1":
		s.Fatalf("kind %q, apiVersion %q", got.Kind, got.APIVersion)
	}
	if d := cmp.Diff(got, s.get(api.ConfigMaps, "a")); d != "" {
		s.Fatalf("Get differs from what Create answered (-create +get):\n%s", d)
	}
	_, err := s.o.Create(s.Context(), s.configMap("a"))
	s.want(apierrors.IsAlreadyExists, "AlreadyExists", err)
	_, err = s.o.Create(s.Context(), s.configMap(""))
	s.want(apierrors.IsInvalid, "Invalid for a missing name", err)
	for _, name := range []string{"../x", "A", "a/b", "a_b", strings.Repeat("a", 254)} {
		_, err = s.o.Create(s.Context(), s.configMap(name))
		s.want(apierrors.IsInvalid, "Invalid for the name "+name, err)
		if c := causes(err); len(c) == 0 || c[0].Field != "metadata.name" {
			s.Fatalf("name %q: causes are %v, want one on metadata.name", name, c)
		}
	}
	_, err = s.o.Create(s.Context(), changed(s.configMap("b"), func(c *corev1.ConfigMap) { c.Labels = map[string]string{"a b": "c"} }))
	s.want(apierrors.IsInvalid, "Invalid for a label", err)
	_, err = s.o.Create(s.Context(), changed(got, func(c *corev1.ConfigMap) { c.Name = "b" }))
	s.want(apierrors.IsBadRequest, "BadRequest for a set resourceVersion", err)
}

func causes(err error) []metav1.StatusCause {
	var s apierrors.APIStatus
	if !errors.As(err, &s) || s.Status().Details == nil {
		return nil
	}
	return s.Status().Details.Causes
}

func createGeneratesNames(s *suite) {
	seen := map[string]bool{}
	for _, base := range []string{"job-", "job-", strings.Repeat("x", 100)} {
		in := s.configMap("")
		in.GenerateName = base
		got := create(s, in)
		if !strings.HasPrefix(got.Name, base[:min(len(base), 50)]) || len(got.Name) > 63 || seen[got.Name] {
			s.Fatalf("generateName %q made %q (before: %v)", base, got.Name, seen)
		}
		seen[got.Name] = true
	}
}

func createStartsStatus(s *suite) {
	p := s.pod("p", "")
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"}
	got := create(s, p)
	if got.Status.Phase != corev1.PodPending || got.Status.PodIP != "" || got.Status.QOSClass != corev1.PodQOSBestEffort {
		s.Fatalf("a new pod's status is %+v, want Pending and BestEffort alone", got.Status)
	}
	ns := create(s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
	if ns.Status.Phase != corev1.NamespaceActive || len(ns.Spec.Finalizers) != 1 {
		s.Fatalf("a new namespace is %+v %+v, want Active with a finalizer", ns.Spec, ns.Status)
	}
}

func everyKind(s *suite) {
	for _, r := range api.Resources {
		obj := r.New()
		obj.SetName("thing")
		if r.Namespaced {
			obj.SetNamespace(s.ns)
		}
		made := s.create(obj)
		if made.GetObjectKind().GroupVersionKind() != r.GVK() {
			s.Errorf("%s: made a %s", r, made.GetObjectKind().GroupVersionKind())
		}
		next := made.DeepCopyObject().(api.Object)
		next.SetLabels(map[string]string{"a": "b"})
		next = update(s, next)
		got, err := s.o.Get(s.Context(), r, obj.GetNamespace(), "thing")
		if err != nil {
			s.Fatalf("%s: %v", r, err)
		}
		if d := cmp.Diff(next, got); d != "" || got.GetGeneration() != 1 || got.GetLabels()["a"] != "b" {
			s.Errorf("%s: got %+v, difference to the answer:\n%s", r, got, d)
		}
		if _, err := s.o.Delete(s.Context(), r, obj.GetNamespace(), "thing", api.DeleteOptions{}); err != nil {
			s.Errorf("%s: %v", r, err)
		}
	}
}

func notFound(s *suite) {
	_, err := s.o.Get(s.Context(), api.ConfigMaps, s.ns, "x")
	s.want(apierrors.IsNotFound, "NotFound from Get", err)
	_, err = s.o.Update(s.Context(), s.configMap("x"), api.UpdateOptions{})
	s.want(apierrors.IsNotFound, "NotFound from Update", err)
	_, err = s.o.Patch(s.Context(), api.ConfigMaps, s.ns, "x", mergePatch(`{}`))
	s.want(apierrors.IsNotFound, "NotFound from Patch", err)
	_, err = s.o.Delete(s.Context(), api.ConfigMaps, s.ns, "x", api.DeleteOptions{})
	s.want(apierrors.IsNotFound, "NotFound from Delete", err)
}

func updateComparesAndSwaps(s *suite) {
	first := create(s, s.configMap("a", "n", "1"))
	second := update(s, changed(first, func(c *corev1.ConfigMap) { c.Data["n"] = "2" }))
	if second.ResourceVersion == first.ResourceVersion || second.Generation != 2 || first.Data["n"] != "1" {
		s.Fatalf("after the update: %+v, before: %+v", second, first)
	}
	_, err := s.o.Update(s.Context(), changed(first, func(c *corev1.ConfigMap) { c.Data["n"] = "3" }), api.UpdateOptions{})
	s.want(apierrors.IsConflict, "Conflict for a stale resourceVersion", err)
	third := update(s, changed(first, func(c *corev1.ConfigMap) { c.Data["n"], c.ResourceVersion = "3", "" }))
	if third.Data["n"] != "3" {
		s.Fatalf("an update without resourceVersion left %v", third.Data)
	}
	_, err = s.o.Update(s.Context(), changed(third, func(c *corev1.ConfigMap) { c.UID, c.ResourceVersion = "else", "" }), api.UpdateOptions{})
	s.want(apierrors.IsConflict, "Conflict for another uid", err)
	_, err = s.o.Update(s.Context(), third, api.UpdateOptions{Subresource: "status"})
	s.want(apierrors.IsBadRequest, "BadRequest for a status that the kind has not", err)
	s.delete(api.ConfigMaps, "a", api.DeleteOptions{})
	_, err = s.o.Update(s.Context(), third, api.UpdateOptions{})
	s.want(apierrors.IsNotFound, "NotFound after the deletion", err)
}

func updateKeepsServerFields(s *suite) {
	old := create(s, s.pod("p", ""))
	got := update(s, changed(old, func(p *corev1.Pod) {
		now := metav1.Now()
		p.CreationTimestamp, p.DeletionTimestamp, p.Generation, p.UID = metav1.Time{}, &now, 99, ""
		p.Labels = map[string]string{"a": "b"}
		p.Kind, p.APIVersion = "", ""
	}))
	want := changed(old, func(p *corev1.Pod) {
		p.Labels, p.ResourceVersion = map[string]string{"a": "b"}, got.ResourceVersion
	})
	if d := cmp.Diff(want, got); d != "" {
		s.Fatalf("only labels may change here (-want +got):\n%s", d)
	}
	_, err := s.o.Update(s.Context(), changed(got, func(p *corev1.Pod) { p.Labels["a"] = "not valid" }), api.UpdateOptions{})
	s.want(apierrors.IsInvalid, "Invalid for a label", err)
}

func updateWithoutChange(s *suite) {
	old := create(s, s.configMap("a", "k", "v"))
	if got := update(s, old.DeepCopy()); got.ResourceVersion != old.ResourceVersion {
		s.Fatalf("an update that changes nothing moved %s to %s", old.ResourceVersion, got.ResourceVersion)
	}
	got, err := s.o.Patch(s.Context(), api.ConfigMaps, s.ns, "a", mergePatch(`{"data":{"k":"v"}}`))
	if err != nil || got.GetResourceVersion() != old.ResourceVersion {
		s.Fatalf("a patch that changes nothing: %v, %v", got, err)
	}
}

func statusIsApart(s *suite) {
	d := create(s, &appsv1.Deployment{ObjectMeta: s.meta("d"), Status: appsv1.DeploymentStatus{Replicas: 5}})
	if d.Status.Replicas != 0 {
		s.Fatalf("a create stored the status %+v", d.Status)
	}
	n := int32(3)
	d = update(s, changed(d, func(d *appsv1.Deployment) { d.Spec.Replicas, d.Status.Replicas = &n, 5 }))
	if d.Status.Replicas != 0 || *d.Spec.Replicas != 3 || d.Generation != 2 {
		s.Fatalf("after a plain update: generation %d, spec %v, status %+v", d.Generation, *d.Spec.Replicas, d.Status)
	}
	m := int32(9)
	got := s.updateStatus(changed(d, func(d *appsv1.Deployment) {
		d.Spec.Replicas, d.Status.Replicas = &m, 4
		d.Labels, d.Finalizers = map[string]string{"a": "b"}, []string{"x.dev/y"}
	})).(*appsv1.Deployment)
	want := changed(d, func(d *appsv1.Deployment) { d.Status.Replicas, d.ResourceVersion = 4, got.ResourceVersion })
	if diff := cmp.Diff(want, got); diff != "" {
		s.Fatalf("only status may change (-want +got):\n%s", diff)
	}
	_, err := s.o.Update(s.Context(), d, api.UpdateOptions{Subresource: "status"})
	s.want(apierrors.IsConflict, "Conflict for a stale status update", err)
	_, err = s.o.Update(s.Context(), got, api.UpdateOptions{Subresource: "nothing"})
	s.want(apierrors.IsBadRequest, "BadRequest for an unknown subresource", err)
}
