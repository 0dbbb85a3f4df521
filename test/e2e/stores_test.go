package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/daemon/embedded"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
	"go.etcd.io/etcd/server/v3/embed"
)

// selfSigned makes a certificate that vouches for itself, for both ends of
// connections to 127.0.0.1.
func selfSigned(t *testing.T, dir string) (crt, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	crt, key = filepath.Join(dir, "crt.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string]*pem.Block{crt: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return crt, key
}

// secureEtcd starts an etcd that wants to see a certificate.
func secureEtcd(t *testing.T, dir, crt, key string) (endpoint string) {
	t.Helper()
	ports := platform.FreePorts(t, 2)
	client, peer := url.URL{Scheme: "https", Host: ports[0]}, url.URL{Scheme: "http", Host: ports[1]}
	c := embed.NewConfig()
	c.Name, c.Dir, c.LogLevel, c.UnsafeNoFsync = "outside", filepath.Join(dir, "etcd"), "fatal", true
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile, c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = crt, key, crt, true
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		t.Fatal("etcd is not ready after 30 s")
	}
	return client.String()
}

// With --etcd and --nats the platform uses servers that are not its own, by the
// same code as several servers do: it leads, for there is no other.
func TestExternalStores(t *testing.T) {
	t.Parallel()
	platform.NeedRoot(t)
	dir, err := os.MkdirTemp("", "psx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	crt, key := selfSigned(t, dir)
	etcd := secureEtcd(t, dir, crt, key)
	c := embedded.Config{Dir: dir, NoEtcd: true, NATS: platform.FreePorts(t, 1)[0], NATSToken: "outside", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancelCause(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- embedded.Run(ctx, c, func() { close(ready) }) }()
	t.Cleanup(func() { cancel(errors.New("the test is over")); <-done })
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	p := platform.New(t, "--etcd", etcd, "--etcd-ca", crt, "--etcd-cert", crt, "--etcd-key", key, "--nats", "nats://outside@"+c.NATS)
	build(t, p)
	if kids := children(t, p); kids["store"] != 0 {
		t.Errorf("the platform started a store of its own: %v", kids)
	}
	deploy(t, p, openfaas.FunctionDeployment{Service: "outer"})
	if code, body, _ := invoke(t, p, "POST", "/function/outer", "x"); code != 200 || body != "x" {
		t.Errorf("got %d %q", code, body)
	}
	l := newLedger(t)
	id, err := enqueue(p, "outer", "x", l.URL)
	if err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, 20*time.Second, func() error { return l.missing([]string{id}) })
}
