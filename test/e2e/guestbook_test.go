package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/platform"
)

// guestbook does what deploy/examples/guestbook/README.md says, and walks through
// what then runs: Deployments, Services, a function and an Ingress. At secure
// (host:port) the gateway speaks TLS.
func guestbook(t *testing.T, p *platform.Platform, secure string) {
	run := kubectlOf(t, p)
	const example = "../../deploy/examples/guestbook"
	dir := filepath.Join(t.TempDir(), "guestbook")
	if err := os.CopyFS(dir, os.DirFS(example)); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"build", "push"} {
		if out, err := p.FaasIn(dir, "", verb); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	manifest := filepath.Join(dir, "guestbook.yaml")
	run("", "apply", "-f", manifest)
	t.Cleanup(func() { run("", "delete", "namespace", "guestbook", "--timeout=120s") }) // with all that is in it
	ask := func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, p.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "guestbook.example"
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		code, text, h, err := do(req)
		if err != nil {
			t.Fatal(err)
		}
		return code, text + h.Get("Location")
	}
	served := regexp.MustCompile(`served by (frontend-[a-z0-9-]+)`)
	heard := map[string]bool{}
	platform.Eventually(t, 60*time.Second, func() error {
		code, page := ask("GET", "/", "")
		m := served.FindStringSubmatch(page)
		if code != 200 || m == nil {
			return fmt.Errorf("the page: %d %q", code, page)
		}
		if heard[m[1]] = true; len(heard) < 2 {
			return fmt.Errorf("only %v has answered, want both replicas", heard)
		}
		return nil
	})
	for i := range 3 {
		if code, body := ask("POST", "/sign", fmt.Sprintf("text=+hello++world+%d", i)); code != http.StatusSeeOther || body != "/" {
			t.Fatalf("sign: %d %q", code, body)
		}
	}
	code, page := ask("GET", "/", "")
	if first, third := strings.Index(page, "Hello world 0"), strings.Index(page, "Hello world 2"); code != 200 || first < 0 || third < first {
		t.Errorf("the page after three have signed: %d\n%s", code, page)
	}
	if code, body := ask("POST", "/sign", ""); code != http.StatusBadRequest {
		t.Errorf("sign without a text: %d %q", code, body)
	}
	f, err := p.Client.Function(t.Context(), "guestbook", "sign", false)
	if err != nil || f.InvocationCount < 4 {
		t.Errorf("the function's calls by the Ingress are not counted: %+v, %v", f, err)
	}
	// From zero.
	if err := p.Client.Scale(t.Context(), "guestbook", "sign", 0); err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, 20*time.Second, func() error {
		if left := run("", "get", "pods", "-n", "guestbook", "-l", "faas_function=sign", "-o", "name"); left != "" {
			return fmt.Errorf("there is still %s", left)
		}
		return nil
	})
	if code, body := ask("POST", "/sign", "text=from zero"); code != http.StatusSeeOther {
		t.Errorf("sign from zero: %d %q", code, body)
	}
	if _, page := ask("GET", "/", ""); !strings.Contains(page, "From zero") {
		t.Errorf("the page does not have what was signed from zero:\n%s", page)
	}
	for args, want := range map[string]string{
		"get ingress -n guestbook":                "podsnap guestbook.example " + run("", "get", "nodes", "-o", "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}") + " 80 ",
		"describe ingress guestbook -n guestbook": "/sign sign:8080",
		"get ingressclass":                        "podsnap podsnap.dev/gateway <none>",
	} {
		if out := strings.Join(strings.Fields(run("", strings.Fields(args)...)), " "); !strings.Contains(out, want) {
			t.Errorf("kubectl %s does not show %q:\n%s", args, want, out)
		}
	}
	overTLS(t, run, secure)
	if code, _ := ask("GET", "/system/functions", ""); code != 200 { // the page: the host is the Ingress's
		t.Errorf("the Ingress's host at /system: %d", code)
	}
}

// overTLS gives the guestbook's Ingress a certificate and reads the page by it.
func overTLS(t *testing.T, run func(stdin string, args ...string) string, secure string) {
	t.Helper()
	s := httptest.NewTLSServer(nil) // for its certificate, which is one of example.com
	s.Close()
	pair := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for file, block := range map[string]*pem.Block{"crt": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, "key": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run("", "create", "secret", "tls", "pair", "-n", "guestbook", "--cert", filepath.Join(dir, "crt"), "--key", filepath.Join(dir, "key"))
	run("", "patch", "ingress", "guestbook", "-n", "guestbook", "--type=merge", "-p", `{"spec": {"tls": [{"hosts": ["guestbook.example"], "secretName": "pair"}]}}`)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := &tls.Dialer{Config: &tls.Config{ServerName: "guestbook.example", InsecureSkipVerify: true, VerifyConnection: func(c tls.ConnectionState) error { //nolint:gosec // the name is not the certificate's; it is compared below
				if !c.PeerCertificates[0].Equal(s.Certificate()) {
					return errors.New("that is another certificate")
				}
				return nil
			}}}
			return d.DialContext(ctx, "tcp", secure)
		},
	}}
	platform.Eventually(t, 20*time.Second, func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://guestbook.example/", http.NoBody)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil && !strings.Contains(string(b), "served by frontend-") {
			err = fmt.Errorf("the page over TLS: %s %q", resp.Status, b)
		}
		return err
	})
}

// do sends a request and follows no redirect.
func do(req *http.Request) (code int, body string, h http.Header, err error) {
	c := &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), resp.Header, err
}
