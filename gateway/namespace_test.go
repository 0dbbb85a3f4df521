package gateway_test

import (
	"net/http"
	"testing"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A namespace that is not one for functions is none of this API's to delete.
func TestDeleteNamespaceOfOthers(t *testing.T) {
	r := newRig(t, nil)
	if _, err := r.objects.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "others"}}); err != nil {
		t.Fatal(err)
	}
	status, body, _ := r.call("DELETE", "/system/namespace/others", `{"name":"others","labels":{"openfaas":"1"}}`)
	if status != http.StatusBadRequest || body != "namespace others is not one for functions: it lacks the label openfaas=1\n" {
		t.Errorf("%d %q", status, body)
	}
	if _, err := r.objects.Get(t.Context(), api.Namespaces, "", "others"); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}
