package ingress_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/gateway/ingress"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a router behind a server; what it does not serve is answered "own".
type rig struct {
	t       *testing.T
	objects *memory.Objects
	metrics *prometheus.Registry
	router  *ingress.Router
	url     string
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, objects: memory.New(memory.Config{}), metrics: prometheus.NewRegistry()}
	r.router = ingress.New(ingress.Config{
		Objects: r.objects, Secrets: true, Metrics: r.metrics,
		Reserved: func(path string) bool { return path == "/system" },
		Invoke: func(w http.ResponseWriter, _ *http.Request, k types.NamespacedName) bool {
			if k.Name == "fn" {
				fmt.Fprint(w, "function ", k)
			}
			return k.Name == "fn"
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.router.Run(ctx) }()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !r.router.Serve(w, q) {
			fmt.Fprint(w, "own")
		}
	}))
	r.url = s.URL
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		s.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) create(objs ...api.Object) {
	r.t.Helper()
	for _, o := range objs {
		if _, err := r.objects.Create(r.t.Context(), o); err != nil {
			r.t.Fatal(err)
		}
	}
}

// get asks for a path of a host.
func (r *rig) get(host, path string) (status int, body string) {
	r.t.Helper()
	q, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.url+path, http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	q.Host = host
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

// counted is how many requests were answered so by a Service.
func (r *rig) counted(service, code string) (n float64) {
	r.t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["service"] == service && labels["code"] == code {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// until waits for an answer.
func (r *rig) until(host, path string, status int, contains string) {
	r.t.Helper()
	limit, tick := time.After(time.Minute), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for {
		got, body := r.get(host, path)
		if got == status && strings.Contains(body, contains) {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			r.t.Fatalf("%s%s: %d %q, want %d %q", host, path, got, body, status, contains)
		}
	}
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }

// service is one of a named port, with endpoints at addresses (host:port).
func service(name string, addrs ...string) []api.Object {
	s := &corev1.Service{ObjectMeta: meta(name)}
	s.Spec.Ports = []corev1.ServicePort{{Name: "metrics", Port: 9090}, {Name: "http", Port: 80}}
	out := []api.Object{s}
	for i, a := range addrs {
		host, p, _ := net.SplitHostPort(a)
		n, _ := strconv.ParseInt(p, 10, 32)
		port, named := int32(n), "http"
		wrong, metrics, no := int32(1), "metrics", false
		m := meta(name + "-" + strconv.Itoa(i))
		m.Labels = map[string]string{api.LabelServiceName: name}
		out = append(out, &discoveryv1.EndpointSlice{
			ObjectMeta: m, AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{{Name: &metrics, Port: &wrong}, {Name: &named, Port: &port}},
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{host}},
				{Addresses: []string{"192.0.2.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}},
			},
		})
	}
	return out
}

func ing(name string, change func(*networkingv1.IngressSpec)) *networkingv1.Ingress {
	i := &networkingv1.Ingress{ObjectMeta: meta(name)}
	change(&i.Spec)
	return i
}

func rule(host, path, service string, port networkingv1.ServiceBackendPort) networkingv1.IngressRule {
	kind := networkingv1.PathTypePrefix
	r := networkingv1.IngressRule{Host: host}
	r.HTTP = &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
		PathType: &kind, Path: path, Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: port}},
	}}}
	return r
}

// backend says what it was asked.
func backend(t *testing.T, name string) (addr string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s for %s by %s", name, r.Host, r.URL.RequestURI(), r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"))
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

var http80 = networkingv1.ServiceBackendPort{Number: 80}

func TestServe(t *testing.T) {
	r := newRig(t)
	r.create(service("web", backend(t, "web"))...)
	r.create(service("none")...)
	if _, body := r.get("shop.example", "/"); body != "own" {
		t.Errorf("without an Ingress: %q", body)
	}
	r.create(ing("a", func(s *networkingv1.IngressSpec) {
		s.Rules = []networkingv1.IngressRule{
			rule("shop.example", "/web", "web", networkingv1.ServiceBackendPort{Name: "http"}),
			rule("shop.example", "/fn", "fn", http80), rule("shop.example", "/none", "none", http80), rule("shop.example", "/gone", "gone", http80),
			rule("shop.example", "/port", "web", networkingv1.ServiceBackendPort{Number: 81}), rule("shop.example", "/system", "web", http80),
			rule("", "/", "web", http80),
		}
	}))
	r.until("shop.example", "/web/x?y=%20z", 200, "web shop.example /web/x?y=%20z for 127.0.0.1 by http")
	r.until("shop.example", "/fn", 200, "function shop/fn")
	r.until("shop.example", "/none", 503, "no endpoint of Service shop/none is ready")
	r.until("shop.example", "/gone", 503, "Service shop/gone, is not there")
	r.until("shop.example", "/port", 503, "has no port 81")
	r.until("shop.example", "/other", 404, "no rule")
	r.until("shop.example", "/system", 200, "web") // the host is the Ingress's
	r.until("any.example", "/x", 200, "web any.example /x")
	r.until("any.example", "/system", 200, "own")
	if n := r.counted("shop/web", "200"); n != 3 {
		t.Errorf("%v requests to web were counted, want 3", n)
	}
	if n := r.counted("shop/gone", "503"); n == 0 {
		t.Error("no request to a Service that is gone was counted")
	}
	mine := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: networkingv1.IngressClassSpec{Controller: api.IngressController}}
	other := "mine"
	r.create(ing("b", func(s *networkingv1.IngressSpec) {
		s.IngressClassName, s.Rules = &other, []networkingv1.IngressRule{rule("class.example", "/", "fn", http80)}
	}))
	r.until("class.example", "/", 200, "web") // a class that is nobody's yet: for all hosts
	r.create(mine)
	r.until("class.example", "/", 200, "function")
	if _, err := r.objects.Delete(t.Context(), api.Ingresses, "shop", "a", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.until("shop.example", "/web", 200, "own")
}

// One endpoint of several that nobody listens at any more does not make a request
// fail.
func TestDeadEndpoint(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	l.Close()
	r.create(service("web", dead, backend(t, "web"), dead)...)
	r.create(service("dead", dead)...)
	r.create(ing("a", func(s *networkingv1.IngressSpec) {
		s.Rules = []networkingv1.IngressRule{rule("a.example", "/", "web", http80), rule("b.example", "/", "dead", http80)}
	}))
	r.until("a.example", "/", 200, "web")
	for range 20 {
		if status, body := r.get("a.example", "/"); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	r.until("b.example", "/", 502, "does not answer")
}

// What a backend says is passed on at once, and a connection may become
// something else than HTTP.
func TestStreams(t *testing.T) {
	r := newRig(t)
	more := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Upgrade") == "" {
			fmt.Fprintln(w, "first")
			w.(http.Flusher).Flush()
			<-more
			fmt.Fprintln(w, "second")
			return
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	}))
	defer s.Close()
	r.create(service("web", s.Listener.Addr().String())...)
	r.create(ing("a", func(s *networkingv1.IngressSpec) {
		s.Rules = []networkingv1.IngressRule{rule("web.example", "/", "web", http80), rule("sync.example", "/", "fn", http80)}
	}))
	r.until("sync.example", "/", 200, "function")
	dial := func(head string) (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: web.example\r\n"+head+"\r\n")
		return conn, bufio.NewReader(conn)
	}
	_, in := dial("")
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	body := bufio.NewReader(resp.Body)
	if line, err := body.ReadString('\n'); line != "first\n" {
		t.Fatalf("%q, %v, before the rest is there", line, err)
	}
	close(more)
	if line, err := body.ReadString('\n'); line != "second\n" {
		t.Fatalf("%q, %v", line, err)
	}
	resp.Body.Close()

	conn, in := dial("Connection: Upgrade\r\nUpgrade: websocket\r\n")
	resp, err = http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	for range 3 {
		fmt.Fprint(conn, "ping\n")
		if line, err := in.ReadString('\n'); line != "ping\n" {
			t.Fatalf("the echo is %q, %v", line, err)
		}
	}
	conn.Close()
}

// pair is a certificate for names, as a Secret.
func pair(t *testing.T, secret string, names ...string) *corev1.Secret {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{ObjectMeta: meta(secret), Type: corev1.SecretTypeTLS, Data: map[string][]byte{
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}),
	}}
}

// A certificate is chosen by the name, and follows its Secret.
func TestCertificate(t *testing.T) {
	r := newRig(t)
	names := func(server string) string {
		c, err := r.router.Certificate(&tls.ClientHelloInfo{ServerName: server})
		if err != nil {
			return err.Error()
		}
		return strings.Join(c.Leaf.DNSNames, ",")
	}
	until := func(server, want string) {
		t.Helper()
		limit, tick := time.After(time.Minute), time.NewTicker(5*time.Millisecond)
		defer tick.Stop()
		for names(server) != want {
			select {
			case <-tick.C:
			case <-limit:
				t.Fatalf("for %q: %s, want %s", server, names(server), want)
			}
		}
	}
	until("a.example", `no Ingress has a certificate for "a.example"`)
	broken := pair(t, "broken", "broken.example")
	broken.Data[corev1.TLSPrivateKeyKey] = []byte("no key")
	r.create(pair(t, "one", "one"), pair(t, "wild", "wild"), broken)
	r.create(ing("a", func(s *networkingv1.IngressSpec) {
		s.Rules = []networkingv1.IngressRule{rule("a.example", "/", "fn", http80)}
		s.TLS = []networkingv1.IngressTLS{
			{Hosts: []string{"a.example"}, SecretName: "one"},
			{Hosts: []string{"*.a.example"}, SecretName: "wild"},
			{Hosts: []string{"b.example"}, SecretName: "broken"},
			{Hosts: []string{"c.example"}, SecretName: "later"},
		}
	}))
	until("a.example", "one")
	until("A.example.", "one")
	until("b.a.example", "wild")
	until("b.example", `no Ingress has a certificate for "b.example"`)
	until("", `no Ingress has a certificate for ""`)
	r.create(pair(t, "later", "later"))
	until("c.example", "later")
	next := pair(t, "one", "renewed")
	if _, err := api.Mutate(t.Context(), r.objects, api.Secrets, "shop", "one", api.UpdateOptions{}, func(s *corev1.Secret) (bool, error) {
		s.Data = next.Data
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	until("a.example", "renewed")
	r.create(pair(t, "all", "d.example"))
	r.create(ing("b", func(s *networkingv1.IngressSpec) {
		s.Rules = []networkingv1.IngressRule{rule("", "/", "fn", http80)}
		s.TLS = []networkingv1.IngressTLS{{SecretName: "all"}}
	}))
	until("d.example", "d.example")
	until("", "d.example")
	until("nobody.example", "d.example")
}
