package rules

import (
	"fmt"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxGenerated is the longest generateName that is kept in full: a name label
// has at most 63 characters, five of which are the suffix.
const maxGenerated = 58

// Create makes the object that is to be stored from what a client sent: a copy
// with its name, uid, creationTimestamp and generation filled and its status
// empty, where the kind has a status subresource. admit (nil is none) works on
// that copy before it is validated. Errors are Invalid, BadRequest and what
// admit answers.
func Create(f Facts, obj api.Object, admit func(next api.Object) error) (api.Object, error) {
	r := api.ResourceOf(obj)
	next := obj.DeepCopyObject().(api.Object)
	if next.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	if r.Namespaced && next.GetNamespace() == "" {
		next.SetNamespace(metav1.NamespaceDefault)
	}
	if next.GetName() == "" && next.GetGenerateName() != "" {
		base := next.GetGenerateName()
		next.SetName(base[:min(len(base), maxGenerated)] + f.Suffix)
	}
	next.GetObjectKind().SetGroupVersionKind(r.GVK())
	next.SetUID(f.UID)
	next.SetCreationTimestamp(metav1.NewTime(f.Now.Truncate(time.Second)))
	next.SetDeletionTimestamp(nil)
	next.SetDeletionGracePeriodSeconds(nil)
	next.SetSelfLink("")
	next.SetGeneration(1)
	if r.Status {
		clearStatus(next)
	}
	begin(next)
	if admit != nil {
		if err := admit(next); err != nil {
			return nil, err
		}
	}
	if p, ok := next.(*corev1.Pod); ok && p.Status.QOSClass == "" {
		p.Status.QOSClass = QOS(p)
	}
	if err := validate(r, next); err != nil {
		return nil, err
	}
	return next, nil
}

// begin sets the state that a new object of the kind starts with.
func begin(obj api.Object) {
	switch o := obj.(type) {
	case *corev1.Pod:
		o.Status.Phase = corev1.PodPending
	case *corev1.Namespace:
		o.Status.Phase = corev1.NamespaceActive
		o.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes}
	}
}

// Admissible says whether obj may be created in its namespace; ns is that
// namespace's object, nil when there is none. It is for namespaced kinds only.
func Admissible(obj api.Object, ns *corev1.Namespace) error {
	if ns == nil {
		return apierrors.NewNotFound(api.Namespaces.GR(), obj.GetNamespace())
	}
	if ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	err := apierrors.NewForbidden(api.ResourceOf(obj).GR(), obj.GetName(),
		fmt.Errorf("unable to create new content in namespace %s because it is being terminated", ns.Name))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", ns.Name),
		Field:   "metadata.namespace",
	})
	return err
}
