package admission

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

func keyAndRequest(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestCertificateRequest(t *testing.T) {
	_, request := keyAndRequest(t)
	block, _ := pem.Decode(request)
	forged := append([]byte(nil), block.Bytes...)
	forged[len(forged)-1] ^= 1
	for name, c := range map[string]struct {
		change func(*certificatesv1.CertificateSigningRequestSpec)
		want   string // "" is valid
	}{
		"as it should be":   {func(*certificatesv1.CertificateSigningRequestSpec) {}, ""},
		"of another signer": {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "example.com/a.b-c" }, ""},
		"no request":        {func(s *certificatesv1.CertificateSigningRequestSpec) { s.Request = nil }, "spec.request: Required value"},
		"no PEM":            {func(s *certificatesv1.CertificateSigningRequestSpec) { s.Request = []byte("x") }, "must be a PEM block of the type CERTIFICATE REQUEST"},
		"another's": {func(s *certificatesv1.CertificateSigningRequestSpec) {
			s.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged})
		}, "spec.request: Invalid value"},
		"no signer":          {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "" }, "spec.signerName: Required value"},
		"a signer's name":    {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "me" }, "fully qualified domain and path"},
		"a domain alone":     {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "example.com/" }, "fully qualified domain and path"},
		"no domain":          {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "example/a" }, "spec.signerName: Invalid value"},
		"a path with a star": {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "example.com/*" }, "the path *"},
		"two paths":          {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "example.com/a/b" }, "the path a/b"},
		"the legacy signer":  {func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "kubernetes.io/legacy-unknown" }, "is not allowed via this API version"},
		"no usages":          {func(s *certificatesv1.CertificateSigningRequestSpec) { s.Usages = nil }, "spec.usages: Required value"},
		"an odd usage":       {func(s *certificatesv1.CertificateSigningRequestSpec) { s.Usages = []certificatesv1.KeyUsage{"fun"} }, `spec.usages[0]: Unsupported value: "fun"`},
		"a usage twice":      {func(s *certificatesv1.CertificateSigningRequestSpec) { s.Usages = append(s.Usages, s.Usages[0]) }, "spec.usages[1]: Duplicate value"},
		"a short life":       {func(s *certificatesv1.CertificateSigningRequestSpec) { s.ExpirationSeconds = new(int32(599)) }, "spec.expirationSeconds: Invalid value: 599"},
		"ten minutes":        {func(s *certificatesv1.CertificateSigningRequestSpec) { s.ExpirationSeconds = new(int32(600)) }, ""},
	} {
		o := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: certificatesv1.KubeAPIServerClientSignerName, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
		}}
		c.change(&o.Spec)
		var text string
		if errs := Validate(o); len(errs) > 0 {
			text = errs.ToAggregate().Error()
		}
		if (text == "") != (c.want == "") || !strings.Contains(text, c.want) {
			t.Errorf("%s: %q, want %q", name, text, c.want)
		}
	}
}

// What may become of a request by which of its parts.
func TestCertificateRequestDecided(t *testing.T) {
	key, request := keyAndRequest(t)
	crt := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, crt, crt, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	signed := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	type status = certificatesv1.CertificateSigningRequestStatus
	is := func(certificate []byte, types ...string) status {
		s := status{Certificate: certificate}
		for _, typ := range types {
			typ, state, _ := strings.Cut(typ, "=")
			if state == "" {
				state = "True"
			}
			s.Conditions = append(s.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.RequestConditionType(typ), Status: corev1.ConditionStatus(state)})
		}
		return s
	}
	for _, c := range []struct {
		name, part string
		old, now   status
		want       string // the conditions and whether there is a certificate, or the fault
	}{
		{"approved", "approval", is(nil), is(nil, "Approved"), "Approved"},
		{"denied", "approval", is(nil), is(nil, "Denied"), "Denied"},
		{"with a certificate of one's own", "approval", is(nil), is(signed, "Approved"), "Approved"},
		{"the certificate stays", "approval", is(signed, "Approved"), is(nil, "Approved", "Good=False"), "Approved Good signed"},
		{"both", "approval", is(nil, "Approved"), is(nil, "Approved", "Denied"), "mutually exclusive"},
		{"taken back", "approval", is(nil, "Approved"), is(nil), `may not remove a condition of type "Approved"`},
		{"changed", "approval", is(nil, "Approved"), is(nil, "Denied"), `may not remove a condition of type "Approved"`},
		{"not quite", "approval", is(nil), is(nil, "Approved=False"), `Unsupported value: "False"`},
		{"twice", "approval", is(nil), is(nil, "Approved", "Approved"), "Duplicate value"},
		{"of no type", "approval", is(nil), is(nil, ""), "status.conditions[0].type: Required value"},
		{"signed", "status", is(nil, "Approved"), is(signed, "Approved"), "Approved signed"},
		{"failed", "status", is(nil, "Approved"), is(nil, "Approved", "Failed"), "Approved Failed"},
		{"approved by who signs", "status", is(nil), is(signed, "Approved"), `may not add a condition of type "Approved"`},
		{"the decision left out", "status", is(nil, "Denied"), is(signed), `may not remove a condition of type "Denied"`},
		{"no certificate", "status", is(nil, "Approved"), is([]byte("x"), "Approved"), "at least one CERTIFICATE PEM block"},
		{"a request as one", "status", is(nil, "Approved"), is(request, "Approved"), `found "CERTIFICATE REQUEST"`},
		{"another certificate", "status", is(signed, "Approved"), is(append([]byte("\n"), signed...), "Approved"), "may not modify existing certificate"},
		{"all at once", "", is(nil, "Denied"), is(signed, "Approved"), "Denied"},
	} {
		old := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Request: request, SignerName: "example.com/a", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageAny}}, Status: c.old}
		old.Name = "r"
		now := old.DeepCopy()
		now.Status, now.Spec.Username, now.Spec.Request = c.now, "somebody", nil // nothing of the spec changes by any of them
		v, err := rules.Update(old, now, api.UpdateOptions{Subresource: c.part}, func(old, next api.Object) error {
			return Admit(t.Context(), rules.OpUpdate, api.CertificateSigningRequests, old, next, c.part)
		})
		var got string
		if err != nil {
			got = err.Error()
		} else {
			got = shown(v.Object.(*certificatesv1.CertificateSigningRequest))
			if s := v.Object.(*certificatesv1.CertificateSigningRequest).Spec; s.Username != "" || len(s.Request) == 0 {
				t.Errorf("%s: the spec is %+v", c.name, s)
			}
		}
		if err == nil && got != c.want || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func shown(c *certificatesv1.CertificateSigningRequest) string {
	var out []string
	for _, cond := range c.Status.Conditions {
		out = append(out, string(cond.Type))
	}
	if len(c.Status.Certificate) > 0 {
		out = append(out, "signed")
	}
	return strings.Join(out, " ")
}
