package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

func requestOfKey(t *testing.T, name string, groups ...string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: groups}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// Who may ask for a certificate, who may approve it, and who sign it.
func TestCertificateRequests(t *testing.T) {
	g := newGuarded(t)
	rule := func(resource string, verbs []string, names ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{certificatesv1.GroupName}, Resources: []string{resource}, ResourceNames: names}
	}
	change := []string{"get", "update", "patch"}
	for user, rules := range map[string][]rbacv1.PolicyRule{
		"jane":     {rule("certificatesigningrequests", []string{"create", "get", "list", "update"})},
		"approver": {rule("certificatesigningrequests/approval", change), rule("signers", []string{"approve"}, "example.com/*")},
		"some":     {rule("certificatesigningrequests/approval", change), rule("signers", []string{"approve"}, "example.com/other"), rule("certificatesigningrequests/status", change)},
		"signer":   {rule("certificatesigningrequests/status", change), rule("signers", []string{"sign"}, "example.com/a")},
	} {
		g.create(t, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules}, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: user}, Subjects: []rbacv1.Subject{{Kind: "User", Name: user}},
		})
	}
	const root = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	as := func(user, method, path, body string, more ...string) *httptest.ResponseRecorder {
		headers := append([]string{"Authorization: Bearer secret"}, more...)
		if user != "" {
			headers = append(headers, "Impersonate-User: "+user, "Impersonate-Group: dev")
		}
		return ask(t, g, method, path, body, headers...)
	}
	until(t, func() bool { return as("jane", "GET", root, "").Code == 200 })
	until(t, func() bool {
		return as("approver", "GET", root+"/x/approval", "").Code == 404 && as("signer", "GET", root+"/x/status", "").Code == 404 && as("some", "GET", root+"/x/status", "").Code == 404
	})
	named := func(name, signer, request string) string {
		return `{"metadata":{"name":"` + name + `"},"spec":{"signerName":"` + signer + `","usages":["client auth"],"username":"system:admin","groups":["system:masters"],"request":"` + request + `"}}`
	}
	const own = certificatesv1.KubeAPIServerClientSignerName
	const approved = `{"status":{"conditions":[{"type":"Approved","status":"True","reason":"Because"}]}}`
	merge := "Content-Type: application/merge-patch+json"
	for _, c := range []struct {
		name, user, method, path, body string
		code                           int
		says                           string
	}{
		{"anybody's", "joe", "POST", "", named("x", own, requestOfKey(t, "joe")), 403, "cannot create resource"},
		{"one", "jane", "POST", "", named("a", "example.com/a", requestOfKey(t, "jane")), 201, `"username":"jane","groups":["dev","system:authenticated"]`},
		{"one of the API", "jane", "POST", "", named("own", own, requestOfKey(t, "jane")), 201, `"username":"jane"`},
		{"a dry run", "jane", "POST", "?dryRun=All", named("x", own, requestOfKey(t, "jane")), 201, `"username":"jane"`},
		{"of administrators", "jane", "POST", "", named("x", own, requestOfKey(t, "jane", "system:masters")), 403, "with system:masters group is not allowed"},
		{"of administrators of something else", "jane", "POST", "", named("b", "example.com/other", requestOfKey(t, "jane", "system:masters")), 201, ""},
		{"by an administrator", "", "POST", "", named("x", own, requestOfKey(t, "jane", "system:masters")), 403, "is not allowed"},
		{"no request", "jane", "POST", "", named("x", own, "eA=="), 422, "spec.request"},
		{"approving her own", "jane", "PATCH", "/a/approval", approved, 403, "cannot patch resource"},
		{"approving for another signer", "some", "PATCH", "/a/approval", approved, 403, `user not permitted to approve requests with signerName \"example.com/a\"`},
		{"approving for the API", "approver", "PATCH", "/own/approval", approved, 403, "user not permitted to approve"},
		{"a dry run of an approval", "approver", "PATCH", "/a/approval?dryRun=All", approved, 200, `"type":"Approved"`},
		{"approving", "approver", "PATCH", "/a/approval", approved, 200, `"lastTransitionTime":"2`},
		{"approving by exactly that", "some", "PATCH", "/b/approval", approved, 200, `"type":"Approved"`},
		{"by an administrator", "", "PATCH", "/own/approval", approved, 200, `"type":"Approved"`},
		{"denied then", "approver", "PATCH", "/a/approval", `{"status":{"conditions":[{"type":"Denied","status":"True"}]}}`, 422, "may not remove a condition"},
		{"no certificate", "some", "PATCH", "/a/status", `{"status":{"certificate":"eA=="}}`, 422, "CERTIFICATE PEM block"},
		{"a decision by who signs", "some", "PATCH", "/a/status", `{"status":{"conditions":[{"type":"Approved","status":"True"},{"type":"Odd","status":"True"}]}}`, 422, "may not modify"},
		{"nothing changed by who may not", "some", "PATCH", "/a/status", `{}`, 200, ""},
		{"a certificate by an update", "jane", "PUT", "/a", strings.Replace(named("a", own, "eA=="), "{", `{"status":{"certificate":"eA=="},`, 1), 200, `"signerName":"example.com/a"`},
		{"by its signer", "jane", "GET", "?fieldSelector=spec.signerName=example.com/other", "", 200, `"name":"b"`},
	} {
		w := as(c.user, c.method, root+c.path, c.body, map[string][]string{"PATCH": {merge}}[c.method]...)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: %d %s, want %d with %s", c.name, w.Code, w.Body, c.code, c.says)
		}
	}
	o, err := api.Get[*certificatesv1.CertificateSigningRequest](t.Context(), g.objects, api.CertificateSigningRequests, "", "a")
	if err != nil {
		t.Fatal(err)
	}
	failed := func(user string) *httptest.ResponseRecorder {
		o := o.DeepCopy()
		o.Status.Conditions = append(o.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateFailed, Status: "True"})
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return as(user, "PUT", root+"/a/status", string(b))
	}
	if w := failed("some"); w.Code != 403 || !strings.Contains(w.Body.String(), "user not permitted to sign") {
		t.Errorf("failed by who may not sign: %d %s", w.Code, w.Body)
	}
	if w := failed("signer"); w.Code != 200 || !strings.Contains(w.Body.String(), `"type":"Failed"`) {
		t.Errorf("failed by who signs: %d %s", w.Code, w.Body)
	}
	table := as("jane", "GET", root+"/a", "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io").Body.String()
	for _, want := range []string{`"name":"SignerName"`, `"name":"Requestor"`, `"example.com/a"`, `"jane"`, `"Approved,Failed"`} {
		if !strings.Contains(table, want) {
			t.Errorf("the table has no %s: %s", want, table)
		}
	}
	resources := as("jane", "GET", "/apis/certificates.k8s.io/v1", "").Body.String()
	if !strings.Contains(resources, `"name":"certificatesigningrequests/approval"`) || !strings.Contains(resources, `"shortNames":["csr"]`) {
		t.Errorf("discovery says %s", resources)
	}
}
