package memory_test

import (
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/seamtest"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNamespacesAreEnforcedOnRequest(t *testing.T) {
	o := memory.New(memory.Config{Namespaces: true})
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x"}}
	if _, err := o.Create(t.Context(), cm); !apierrors.IsNotFound(err) {
		t.Fatalf("create in a missing namespace: got %v, want NotFound", err)
	}
	if _, err := o.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Create(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Delete(t.Context(), api.Namespaces, "", "a", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	cm.Name = "y"
	if _, err := o.Create(t.Context(), cm); !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Fatalf("create in a terminating namespace: got %v, want cause %s", err, corev1.NamespaceTerminatingCause)
	}
}

func TestSeam(t *testing.T) {
	seamtest.Objects(t, func(*testing.T) api.Objects { return memory.New(memory.Config{Namespaces: true}) })
}
