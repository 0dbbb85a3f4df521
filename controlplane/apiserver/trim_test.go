package apiserver

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/access"
)

// In every form of an answer a node sees its own pods whole, and of others what it
// needs.
func TestANodeSeesLittleOfOthersPods(t *testing.T) {
	o := memory.New()
	var uid string
	for _, obj := range []api.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "d", Labels: map[string]string{"app": "shown"}},
			Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "A", Value: "hidden"}}}}},
		},
	} {
		stored, err := o.Create(t.Context(), obj)
		if err != nil {
			t.Fatal(err)
		}
		if stored.GetName() == "n1" {
			uid = string(stored.GetUID())
		}
	}
	h := server(t, Config{Objects: o})
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: access.NodeUser("n1"), Organization: []string{access.Nodes}, SerialNumber: uid}}
	for _, query := range []string{"", "?watch=1&timeoutSeconds=1", "?labelSelector=app%3Dshown", "?fieldSelector=spec.nodeName%3Dn1", "?watch=1&timeoutSeconds=1&fieldSelector=spec.nodeName%3Dn1"} {
		for _, accept := range []string{"application/json", "application/json;as=Table;v=v1;g=meta.k8s.io"} {
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/pods"+query, nil)
			r.Header.Set("Accept", accept)
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			own := strings.Contains(query, "nodeName")
			whole := own && !strings.Contains(accept, "Table") // whose rows have metadata alone
			body := w.Body.String()
			if w.Code != 200 || !strings.Contains(body, `"app":"shown"`) || strings.Contains(body, "hidden") != whole {
				t.Errorf("%s as %s: %d %s", query, accept, w.Code, body)
			}
		}
	}
}
