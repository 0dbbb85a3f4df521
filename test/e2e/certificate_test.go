package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/platform"
)

// certificates has somebody get a certificate by a request that is approved, and use it.
func certificates(t *testing.T, p *platform.Platform) {
	run := kubectlOf(t, p)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "ann", Organization: []string{"dev"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	request := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	for _, name := range []string{"ann", "no"} {
		run(fmt.Sprintf(`{"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": %q},
"spec": {"request": %q, "signerName": "kubernetes.io/kube-apiserver-client", "expirationSeconds": 86400, "usages": ["client auth"]}}`, name, request), "apply", "-f", "-")
	}
	run("", "certificate", "approve", "ann")
	run("", "certificate", "deny", "no")
	var crt string
	platform.Eventually(t, 20*time.Second, func() error {
		if crt = run("", "get", "csr", "ann", "-o", "jsonpath={.status.certificate}"); crt == "" {
			return fmt.Errorf("there is no certificate")
		}
		return nil
	})
	out := run("", "get", "csr", "--no-headers")
	for name, want := range map[string]string{"ann": "24h Approved,Issued", "no": "24h Denied"} {
		i := strings.Index(out, name+" ")
		if i < 0 || !strings.HasSuffix(strings.Join(strings.Fields(strings.Split(out[i:], "\n")[0]), " "), "kubernetes.io/kube-apiserver-client admin "+want) {
			t.Errorf("%s: want %s:\n%s", name, want, out)
		}
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "ann")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
apiVersion: v1
kind: Config
current-context: it
clusters: [{name: it, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: it, user: {client-certificate-data: %q, client-key-data: %q}}]
contexts: [{name: it, context: {cluster: it, user: it}}]
`, p.API, filepath.Join(p.StateDir, "auth", "ca.crt"), crt, base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))), 0o600); err != nil {
		t.Fatal(err)
	}
	as := func(args ...string) string {
		out, _ := exec.CommandContext(t.Context(), "kubectl", append([]string{"--kubeconfig", config, "--cache-dir", t.TempDir()}, args...)...).CombinedOutput()
		return string(out)
	}
	if out := as("get", "pods"); !strings.Contains(out, `User "ann" cannot list resource "pods"`) {
		t.Errorf("without a role: %s", out)
	}
	run("", "create", "clusterrolebinding", "ann", "--clusterrole=view", "--group=dev")
	platform.Eventually(t, 20*time.Second, func() error {
		if out := as("auth", "can-i", "list", "pods"); out != "yes\n" {
			return fmt.Errorf("with a role of the group: %s", out)
		}
		return nil
	})
	if out := as("certificate", "approve", "no"); !strings.Contains(out, "forbidden") {
		t.Errorf("she may approve: %s", out)
	}
	run("", "delete", "csr/ann", "csr/no", "clusterrolebinding/ann")
}
