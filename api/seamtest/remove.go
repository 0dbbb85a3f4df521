package seamtest

import (
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func deletePreconditions(s *suite) {
	made := create(s, s.configMap("a", "k", "v"))
	_, err := s.o.Delete(s.Context(), api.ConfigMaps, s.ns, "a", api.DeleteOptions{UID: "other"})
	s.want(apierrors.IsConflict, "Conflict for another uid", err)
	_, err = s.o.Delete(s.Context(), api.ConfigMaps, s.ns, "a", api.DeleteOptions{ResourceVersion: "1"})
	s.want(apierrors.IsConflict, "Conflict for a stale resourceVersion", err)
	_, err = s.o.Delete(s.Context(), api.ConfigMaps, s.ns, "a", api.DeleteOptions{Propagation: "Sideways"})
	s.want(apierrors.IsBadRequest, "BadRequest for an unknown propagation", err)
	got := s.delete(api.ConfigMaps, "a", api.DeleteOptions{UID: made.UID, ResourceVersion: made.ResourceVersion})
	if got.(*corev1.ConfigMap).Data["k"] != "v" || got.GetUID() != made.UID {
		s.Fatalf("a delete answered with %+v, want the last state", got)
	}
	s.gone(api.ConfigMaps, "a")
	again := create(s, s.configMap("a"))
	if again.UID == made.UID {
		s.Fatal("an object that was created again has its old uid")
	}
}

func finalizers(s *suite) {
	in := s.configMap("a")
	in.Finalizers = []string{"x.dev/one", "x.dev/two"}
	create(s, in)
	marked := s.delete(api.ConfigMaps, "a", api.DeleteOptions{}).(*corev1.ConfigMap)
	if marked.DeletionTimestamp == nil || time.Since(marked.DeletionTimestamp.Time).Abs() > time.Minute {
		s.Fatalf("deletionTimestamp is %v, want now", marked.DeletionTimestamp)
	}
	if again := s.delete(api.ConfigMaps, "a", api.DeleteOptions{}); again.GetResourceVersion() != marked.ResourceVersion {
		s.Fatalf("a second delete changed the object to %+v", again)
	}
	_, err := s.o.Update(s.Context(), changed(marked, func(c *corev1.ConfigMap) { c.Finalizers = append(c.Finalizers, "x.dev/three") }), api.UpdateOptions{})
	if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
		s.Fatalf("a new finalizer on a deleted object: got %v, want Invalid or Forbidden", err)
	}
	one := update(s, changed(marked, func(c *corev1.ConfigMap) { c.Finalizers = c.Finalizers[:1] }))
	if got := s.get(api.ConfigMaps, "a"); got.GetResourceVersion() != one.ResourceVersion {
		s.Fatalf("got %+v, want it to stay with one finalizer", got)
	}
	update(s, changed(one, func(c *corev1.ConfigMap) { c.Finalizers = nil }))
	s.gone(api.ConfigMaps, "a")
}

func propagation(s *suite) {
	for policy, want := range map[metav1.DeletionPropagation][]string{
		metav1.DeletePropagationForeground: {api.FinalizerForeground},
		metav1.DeletePropagationOrphan:     {api.FinalizerOrphan},
	} {
		create(s, s.configMap("a"))
		got := s.delete(api.ConfigMaps, "a", api.DeleteOptions{Propagation: policy})
		if d := cmp.Diff(want, got.GetFinalizers()); d != "" || got.GetDeletionTimestamp() == nil {
			s.Fatalf("%s: %+v\n%s", policy, got, d)
		}
		s.delete(api.ConfigMaps, "a", api.DeleteOptions{Propagation: metav1.DeletePropagationBackground})
		s.gone(api.ConfigMaps, "a")
	}
}

func podDeletionHasTwoPhases(s *suite) {
	p := s.pod("p", "node-a")
	grace := int64(20)
	p.Spec.TerminationGracePeriodSeconds = &grace
	create(s, p)
	got := s.delete(api.Pods, "p", api.DeleteOptions{}).(*corev1.Pod)
	if got.DeletionTimestamp == nil || *got.DeletionGracePeriodSeconds != 20 || time.Until(got.DeletionTimestamp.Time) > 21*time.Second || time.Until(got.DeletionTimestamp.Time) < 10*time.Second {
		s.Fatalf("deletionTimestamp %v, grace %v, want 20 s from now", got.DeletionTimestamp, got.DeletionGracePeriodSeconds)
	}
	longer, shorter, none := int64(40), int64(5), int64(0)
	if again := s.delete(api.Pods, "p", api.DeleteOptions{GracePeriodSeconds: &longer}); again.GetResourceVersion() != got.ResourceVersion {
		s.Fatalf("a longer grace period changed the pod: %v", again.GetDeletionTimestamp())
	}
	cut := s.delete(api.Pods, "p", api.DeleteOptions{GracePeriodSeconds: &shorter}).(*corev1.Pod)
	if *cut.DeletionGracePeriodSeconds != 5 || got.DeletionTimestamp.Sub(cut.DeletionTimestamp.Time) != 15*time.Second {
		s.Fatalf("a shorter grace period gave %v, %v", *cut.DeletionGracePeriodSeconds, cut.DeletionTimestamp)
	}
	s.updateStatus(changed(cut, func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }))
	s.delete(api.Pods, "p", api.DeleteOptions{GracePeriodSeconds: &none, UID: got.UID})
	s.gone(api.Pods, "p")
}

func podDeletionAtOnce(s *suite) {
	create(s, s.pod("unbound", ""))
	s.delete(api.Pods, "unbound", api.DeleteOptions{})
	s.gone(api.Pods, "unbound")

	ended := create(s, s.pod("ended", "node-a"))
	s.updateStatus(changed(ended, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }))
	s.delete(api.Pods, "ended", api.DeleteOptions{})
	s.gone(api.Pods, "ended")

	held := s.pod("held", "node-a")
	held.Finalizers = []string{"x.dev/one"}
	create(s, held)
	none := int64(0)
	got := s.delete(api.Pods, "held", api.DeleteOptions{GracePeriodSeconds: &none}).(*corev1.Pod)
	if got.DeletionTimestamp == nil || *got.DeletionGracePeriodSeconds != 0 {
		s.Fatalf("a pod with a finalizer: %+v", got.ObjectMeta)
	}
	update(s, changed(got, func(p *corev1.Pod) { p.Finalizers = nil }))
	s.gone(api.Pods, "held")
}

func namespaceDeletion(s *suite) {
	ns := create(s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "leaving"}})
	kept := update(s, changed(ns, func(n *corev1.Namespace) { n.Spec.Finalizers, n.Labels = nil, map[string]string{"a": "b"} }))
	if len(kept.Spec.Finalizers) != 1 {
		s.Fatalf("an update of a namespace that is not deleted took its finalizers: %+v", kept.Spec)
	}
	obj, err := s.o.Delete(s.Context(), api.Namespaces, "", "leaving", api.DeleteOptions{})
	if err != nil {
		s.Fatal(err)
	}
	got := obj.(*corev1.Namespace)
	if got.DeletionTimestamp == nil || got.Status.Phase != corev1.NamespaceTerminating {
		s.Fatalf("a deleted namespace is %+v %+v, want Terminating", got.ObjectMeta, got.Status)
	}
	update(s, changed(got, func(n *corev1.Namespace) { n.Spec.Finalizers = nil }))
	_, err = s.o.Get(s.Context(), api.Namespaces, "", "leaving")
	s.want(apierrors.IsNotFound, "NotFound after its finalizers are gone", err)
}
