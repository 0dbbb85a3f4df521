package gateway_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/internal/openfaas"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ruleTo leads everything of a host ("" is all) to a Service's port 80.
func ruleTo(host, service string) networkingv1.IngressRule {
	kind := networkingv1.PathTypePrefix
	return networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
		Paths: []networkingv1.HTTPIngressPath{{PathType: &kind, Path: "/", Backend: networkingv1.IngressBackend{
			Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Number: 80}},
		}}},
	}}}
}

func (r *rig) create(o api.Object) {
	r.t.Helper()
	if _, err := r.objects.Create(r.t.Context(), o); err != nil {
		r.t.Fatal(err)
	}
}

// ask sends a request for a host without credentials, until the answer is right.
func (r *rig) ask(c *http.Client, url, host, want string) {
	r.t.Helper()
	limit, tick := time.After(time.Minute), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			r.t.Fatal(err)
		}
		req.Host = host
		got := ""
		resp, err := c.Do(req)
		if err == nil {
			var b []byte
			b, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			got = strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", string(b)))
		}
		if err == nil && got == want {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			r.t.Fatalf("%s of %s: %q %v, want %q", url, host, got, err, want)
		}
	}
}

// An Ingress leads to a function, which wakes and is counted, and to other
// Services. What is the gateway's own stays so, but at an Ingress's host.
func TestIngress(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate
	web.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "web ", r.URL.Path, " ", r.Header.Get("X-Forwarded-Proto"))
	}))
	defer plain.Close()
	r := newRig(t, func(c *gateway.Config) { c.Secrets = true })
	if err := r.client.Create(t.Context(), openfaas.FunctionDeployment{Service: "hello", Image: "x:1"}); err != nil {
		t.Fatal(err)
	}
	host, p, err := net.SplitHostPort(plain.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(p, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	port := int32(n)
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: api.FunctionNamespace, Name: name}
	}
	r.create(&corev1.Service{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: meta("web-1"), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{host}}},
	}
	slice.Labels = map[string]string{api.LabelServiceName: "web"}
	r.create(slice)
	leaf := web.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	r.create(&corev1.Secret{ObjectMeta: meta("pair"), Type: corev1.SecretTypeTLS, Data: map[string][]byte{
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	}})
	i := &networkingv1.Ingress{ObjectMeta: meta("all")}
	i.Spec.Rules = []networkingv1.IngressRule{ruleTo("hello.example.com", "hello"), ruleTo("example.com", "web"), ruleTo("", "web")}
	i.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"example.com", "hello.example.com"}, SecretName: "pair"}}
	r.create(i)

	c := r.client.HTTP
	r.ask(c, r.url+"/a?b=c", "hello.example.com", "200 GET /a?b=c")
	r.ask(c, r.url+"/a", "example.com", "200 web /a http")
	r.ask(c, r.url+"/system/functions", "example.com", "200 web /system/functions http")
	r.ask(c, r.url+"/a", "other.example", "200 web /a http")
	r.ask(c, r.url+"/healthz", "other.example", "200")
	r.ask(c, r.url+"/function/hello/x", "example.com", "200 GET /x") // invocations are the gateway's at every host
	if status, _, _ := r.do(mustRequest(t, r.url+"/system/functions")); status != http.StatusUnauthorized {
		t.Errorf("without a password, at the gateway's own name: %d", status)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- r.g.Front().Serve(tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: r.g.Certificate, NextProtos: []string{"h2", "http/1.1"}}))
	}()
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	for _, h2 := range []bool{false, true} {
		tr := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "example.com"}, ForceAttemptHTTP2: h2,
		}
		c := &http.Client{Transport: tr}
		r.ask(c, "https://"+l.Addr().String()+"/a", "example.com", "200 web /a https")
		r.ask(c, "https://"+l.Addr().String()+"/function/hello/y", "example.com", "200 GET /y")
		tr.CloseIdleConnections()
	}
	if err := r.g.Front().Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func mustRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return req
}
