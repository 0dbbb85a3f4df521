package controller_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What is approved of the API's clients is signed, once, and every request goes in time.
func TestCertificateRequests(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // over the two below
	var signed []string
	fault := errors.New("no entropy")
	sign := func(name string, groups []string, of crypto.PublicKey, life time.Duration) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		if fault != nil {
			return nil, fault
		}
		if !key.PublicKey.Equal(of) {
			t.Errorf("a certificate for the key %v", of)
		}
		signed = append(signed, fmt.Sprintf("%s %q %s", name, groups, life))
		crt := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(life)}
		der, err := x509.CreateCertificate(rand.Reader, crt, crt, of, key)
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
	}
	start(t, controller.Config{Sign: sign}, func(c *cluster) {
		create := func(name, user string, change func(*certificatesv1.CertificateSigningRequestSpec)) {
			t.Helper()
			der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: user, Organization: []string{"dev"}}}, key)
			if err != nil {
				t.Fatal(err)
			}
			o := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeAPIServerClientSignerName,
				Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature},
			}}
			change(&o.Spec)
			c.create(o)
		}
		decide := func(name string, as certificatesv1.RequestConditionType) {
			t.Helper()
			if _, err := api.Mutate(c.ctx, c, api.CertificateSigningRequests, "", name, api.UpdateOptions{Subresource: api.Approval}, func(o *certificatesv1.CertificateSigningRequest) (bool, error) {
				o.Status.Conditions = append(o.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: as, Status: corev1.ConditionTrue, LastUpdateTime: metav1.Now()})
				return true, nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		is := func(name, want string) func() error {
			return func() error {
				o, err := api.Get[*certificatesv1.CertificateSigningRequest](c.ctx, c, api.CertificateSigningRequests, "", name)
				got := "gone"
				switch {
				case apierrors.IsNotFound(err):
				case err != nil:
					return err
				default:
					got = strings.Repeat("signed ", min(1, len(o.Status.Certificate)))
					for _, cond := range o.Status.Conditions {
						got += string(cond.Type) + cond.Message + " "
					}
				}
				if got = strings.TrimSpace(got); got != want {
					return fmt.Errorf("%s is %q, want %q", name, got, want)
				}
				return nil
			}
		}
		as := func(*certificatesv1.CertificateSigningRequestSpec) {}
		create("jane", "jane", as)
		create("short", "jane", func(s *certificatesv1.CertificateSigningRequestSpec) { s.ExpirationSeconds = new(int32(1200)) })
		create("long", "jane", func(s *certificatesv1.CertificateSigningRequestSpec) { s.ExpirationSeconds = new(int32(1 << 30)) })
		create("server", "jane", func(s *certificatesv1.CertificateSigningRequestSpec) {
			s.Usages = append(s.Usages, certificatesv1.UsageServerAuth)
		})
		create("nobody", "", as)
		create("other", "jane", func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = "example.com/a" })
		create("denied", "jane", as)
		create("pending", "jane", as)
		c.pass(time.Minute)
		for _, name := range []string{"jane", "denied", "pending"} {
			if err := is(name, "")(); err != nil {
				t.Error(err)
			}
		}
		decide("jane", certificatesv1.CertificateApproved)
		c.pass(time.Minute)
		if err := is("jane", "Approved")(); err != nil {
			t.Errorf("while nothing can be signed: %v", err)
		}
		mu.Lock()
		fault = nil
		mu.Unlock()
		c.eventually("signed", is("jane", "signed Approved"))
		for _, name := range []string{"short", "long", "server", "nobody", "other"} {
			decide(name, certificatesv1.CertificateApproved)
		}
		decide("denied", certificatesv1.CertificateDenied)
		c.pass(time.Second)
		for name, want := range map[string]string{
			"short": "signed Approved", "long": "signed Approved", "other": "Approved", "denied": "Denied", "pending": "",
			"server": `Approved Failedthe usage "server auth" is not one of "client auth", "digital signature" and "key encipherment"`,
			"nobody": "Approved Failedthe request has no common name, which is the name of the user",
		} {
			if err := is(name, want)(); err != nil {
				t.Error(err)
			}
		}
		mu.Lock()
		slices.Sort(signed)
		got := strings.Join(signed, "; ")
		mu.Unlock()
		if want := `jane ["dev"] 20m0s; jane ["dev"] 8760h0m0s; jane ["dev"] 8760h0m0s`; got != want {
			t.Errorf("signed is %s, want %s", got, want)
		}

		c.pass(25 * time.Minute)
		if err := errors.Join(is("short", "gone")(), is("jane", "signed Approved")()); err != nil {
			t.Errorf("when a certificate has expired: %v", err)
		}
		c.pass(36 * time.Minute)
		for _, name := range []string{"jane", "long", "server", "nobody", "other", "denied"} {
			if err := is(name, "gone")(); err != nil {
				t.Errorf("an hour later: %v", err)
			}
		}
		if err := is("pending", "")(); err != nil {
			t.Error(err)
		}
		c.pass(23 * time.Hour)
		if err := is("pending", "gone")(); err != nil {
			t.Errorf("a day later: %v", err)
		}
	})
}
