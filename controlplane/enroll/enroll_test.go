package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/internal/join"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func authority(t *testing.T) Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	crt, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Authority{crt, key}
}

// leaf is a certificate for a server of the name.
func leaf(t *testing.T, a Authority, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.Certificate, &key.PublicKey, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, a.Certificate.Raw}, PrivateKey: key}
}

// door serves a desk over TLS as a server does; what it was sent is counted.
type door struct {
	*httptest.Server
	mu   sync.Mutex
	seen int
}

func serve(t *testing.T, a Authority, h http.Handler, crt tls.Certificate) *door {
	t.Helper()
	d := &door{}
	d.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.seen++
		d.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate)
	d.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{crt}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	d.Config.ErrorLog = nil
	d.StartTLS()
	t.Cleanup(d.Close)
	return d
}

type rig struct {
	t         *testing.T
	objects   *memory.Objects
	authority Authority
	door      *door
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOver(t, func(o api.Objects) api.Objects { return o })
}

// newRigOver is a rig whose desk sees the objects through something.
func newRigOver(t *testing.T, through func(api.Objects) api.Objects) *rig {
	t.Helper()
	r := &rig{t: t, objects: memory.New(), authority: authority(t)}
	desk := New(Config{Objects: through(r.objects), Authority: r.authority, Settings: join.Settings{ClusterCIDR: "10.62.0.0/16"}})
	mux := http.NewServeMux()
	mux.HandleFunc(access.JoinPath, desk.Join)
	mux.HandleFunc(access.RenewPath, func(w http.ResponseWriter, q *http.Request) {
		u, _ := access.Authenticate(q, "no token")
		desk.Renew(w, q.WithContext(access.With(q.Context(), u)))
	})
	if _, err := r.objects.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: api.SystemNamespace}}); err != nil {
		t.Fatal(err)
	}
	r.door = serve(t, r.authority, mux, leaf(t, r.authority, join.ServerName))
	return r
}

// token stores a token, changed.
func (r *rig) token(change func(*corev1.Secret)) join.Token {
	r.t.Helper()
	t := join.NewToken(r.authority.Certificate.Raw)
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.SystemNamespace, Name: join.SecretPrefix + t.ID}, Type: join.SecretType,
		Data: map[string][]byte{join.KeyHash: []byte(t.Hash()), join.KeyExpires: []byte(time.Now().Add(time.Hour).Format(time.RFC3339))},
	}
	if change != nil {
		change(s)
	}
	if _, err := r.objects.Create(r.t.Context(), s); err != nil {
		r.t.Fatal(err)
	}
	return t
}

func (r *rig) join(t join.Token, node string) (key []byte, a join.Answer, err error) {
	r.t.Helper()
	key, csr, err := join.NewKey()
	if err != nil {
		r.t.Fatal(err)
	}
	a, err = join.Join(r.t.Context(), r.door.URL, t, "", node, csr)
	return key, a, err
}

func refused(t *testing.T, err error, code int, text string) {
	t.Helper()
	r := new(join.Refused)
	if !errors.As(err, &r) || r.Code != code || !strings.Contains(r.Reason, text) {
		t.Errorf("%v, want a refusal with %d and %q", err, code, text)
	}
}

func TestJoin(t *testing.T) {
	r := newRig(t)
	token := r.token(nil)
	key, a, err := r.join(token, "n1")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(a.Certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	n, err := api.Get[*corev1.Node](t.Context(), r.objects, api.Nodes, "", "n1")
	if err != nil {
		t.Fatal(err)
	}
	s := pair.Leaf.Subject
	if s.CommonName != "system:node:n1" || s.Organization[0] != access.Nodes || s.SerialNumber != string(n.UID) || pair.Leaf.DNSNames[0] != join.NodeName("n1") {
		t.Errorf("the certificate says %v %v", s, pair.Leaf.DNSNames)
	}
	if pair.Leaf.VerifyHostname(join.ServerName) == nil || pair.Leaf.IsCA {
		t.Error("a node could pass for a server")
	}
	if a.Settings.ClusterCIDR != "10.62.0.0/16" {
		t.Errorf("settings %+v", a.Settings)
	}
	if _, err := r.objects.Get(t.Context(), api.Leases, api.SystemNamespace, "n1"); err != nil {
		t.Error(err)
	}
	if _, _, err = r.join(token, "n2"); err == nil {
		t.Error("one token let two machines in")
	}
	refused(t, err, http.StatusUnauthorized, "faas token create")

	// With the certificate it gets another one, and with none nothing.
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.CA)
	tr := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: join.ServerName, Certificates: []tls.Certificate{pair}}}
	defer tr.CloseIdleConnections()
	newKey, csr, err := join.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	b, err := join.Renew(t.Context(), &http.Client{Transport: tr}, r.door.URL, csr)
	if err != nil {
		t.Fatal(err)
	}
	next, err := tls.X509KeyPair(b.Certificate, newKey)
	if err != nil || next.Leaf.Subject.String() != pair.Leaf.Subject.String() || next.Leaf.SerialNumber.Cmp(pair.Leaf.SerialNumber) == 0 {
		t.Errorf("the renewed certificate is for %v (%v)", next.Leaf.Subject, err)
	}
	bare := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: join.ServerName}}
	defer bare.CloseIdleConnections()
	_, err = join.Renew(t.Context(), &http.Client{Transport: bare}, r.door.URL, csr)
	refused(t, err, http.StatusBadRequest, "only nodes")
}

// A machine sends its secret to nobody but a server of its cluster.
func TestSecretStaysHome(t *testing.T) {
	r, other := newRig(t), authority(t)
	token := r.token(nil)
	caught := 0
	trap := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { caught++ })
	for name, crt := range map[string]tls.Certificate{
		"another cluster":       leaf(t, other, join.ServerName),
		"a node of the cluster": leaf(t, r.authority, join.NodeName("evil")),
		"another one that shows our authority": func() tls.Certificate {
			c := leaf(t, other, join.ServerName)
			c.Certificate = append(c.Certificate, r.authority.Certificate.Raw)
			return c
		}(),
	} {
		d := serve(t, r.authority, trap, crt)
		_, csr, err := join.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := join.Join(ctx, d.URL, token, "", "n", csr); err == nil || d.seen > 0 || caught > 0 {
			t.Errorf("%s: %v, and it has seen %d requests", name, err, d.seen)
		}
		cancel()
	}
}

func TestWhoIsNotTakenIn(t *testing.T) {
	r := newRig(t)
	for name, change := range map[string]func(*corev1.Secret){
		"expired": func(s *corev1.Secret) {
			s.Data[join.KeyExpires] = []byte(time.Now().Add(-time.Second).Format(time.RFC3339))
		},
		"without an end": func(s *corev1.Secret) { delete(s.Data, join.KeyExpires) },
		"another secret": func(s *corev1.Secret) { s.Data[join.KeyHash] = []byte(join.Digest([]byte("x"))) },
		"without a hash": func(s *corev1.Secret) { delete(s.Data, join.KeyHash) },
		"another type":   func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque },
	} {
		_, _, err := r.join(r.token(change), "n")
		t.Log(name)
		refused(t, err, http.StatusUnauthorized, "token is not known")
	}
	_, _, err := r.join(join.NewToken(r.authority.Certificate.Raw), "n")
	refused(t, err, http.StatusUnauthorized, "token is not known")
	token := r.token(nil)
	_, _, err = r.join(token, "Not A Name")
	refused(t, err, http.StatusBadRequest, "--node-name")
	if _, err := join.Join(t.Context(), r.door.URL, token, "", "n", []byte("no request")); err != nil {
		refused(t, err, http.StatusBadRequest, "csr")
	}
	if nodes, err := api.Items[*corev1.Node](t.Context(), r.objects, api.Nodes, api.ListOptions{}); err != nil || len(nodes) != 0 {
		t.Errorf("%d nodes were made (%v)", len(nodes), err)
	}
	// What was refused for another reason has not used the token up.
	if _, _, err := r.join(token, "n"); err != nil {
		t.Error(err)
	}
}

// A name is taken while its machine lives; when it is lost another machine may
// have it, and the lost one's certificate is worth nothing then.
func TestNameOfALostNode(t *testing.T) {
	r := newRig(t)
	token := r.token(func(s *corev1.Secret) { s.Data[join.KeyReusable] = []byte("true") })
	if _, _, err := r.join(token, "n1"); err != nil {
		t.Fatal(err)
	}
	ready := func(is corev1.ConditionStatus) *corev1.Node {
		n, err := api.Mutate(t.Context(), r.objects, api.Nodes, "", "n1", api.UpdateOptions{Subresource: "status"}, func(n *corev1.Node) (bool, error) {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: is}}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	ready(corev1.ConditionTrue)
	_, _, err := r.join(token, "n1")
	refused(t, err, http.StatusConflict, "--node-name")
	old := ready(corev1.ConditionUnknown)
	if _, _, err := r.join(token, "n1"); err != nil {
		t.Fatal(err)
	}
	u := access.User{Name: access.NodeUser("n1"), Groups: []string{access.Nodes}, UID: string(old.UID)}
	if err := access.Allow(t.Context(), u, access.Request{Verb: "get", Resource: api.Nodes}, r.objects); !apierrors.IsForbidden(err) {
		t.Errorf("the lost machine: %v, want Forbidden", err)
	}
}

func TestTokensText(t *testing.T) {
	a := authority(t)
	token := join.NewToken(a.Certificate.Raw)
	if got, err := join.Parse(" " + token.String() + "\n"); err != nil || got != token {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "x", token.ID + "." + token.Secret, strings.ToUpper(token.String()), token.String() + "0"} {
		if _, err := join.Parse(s); err == nil || !strings.Contains(err.Error(), "faas token create") {
			t.Errorf("%q: %v, want an error that says where tokens come from", s, err)
		}
	}
}

// A client's certificate says who he is, and is good for nothing else.
func TestClient(t *testing.T) {
	a := authority(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for life, want := range map[time.Duration]time.Time{20 * time.Minute: time.Now().Add(20 * time.Minute), 48 * time.Hour: a.Certificate.NotAfter} {
		text, err := a.Client("jane", []string{"dev", "ops"}, &key.PublicKey, life)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		crt, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if off := crt.NotAfter.Sub(want).Abs(); off > time.Minute {
			t.Errorf("one of %s ends %s", life, crt.NotAfter)
		}
		roots := x509.NewCertPool()
		roots.AddCert(a.Certificate)
		verify := func(use x509.ExtKeyUsage) error {
			_, err := crt.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{use}})
			return err
		}
		if err := verify(x509.ExtKeyUsageClientAuth); err != nil {
			t.Errorf("as a client: %v", err)
		}
		if verify(x509.ExtKeyUsageServerAuth) == nil || crt.IsCA {
			t.Error("it is good for a server, or signs")
		}
		u, ok := access.Certified(&http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{crt}, VerifiedChains: [][]*x509.Certificate{{crt}}}})
		if !ok || u.Name != "jane" || u.UID != "" || strings.Join(u.Groups, " ") != "dev ops" {
			t.Errorf("who asks with it is %+v", u)
		}
	}
}
