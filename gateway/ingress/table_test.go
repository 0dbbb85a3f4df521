package ingress

import (
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func to(service string) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Number: 80}}}
}

func rule(host string, paths ...networkingv1.HTTPIngressPath) networkingv1.IngressRule {
	r := networkingv1.IngressRule{Host: host}
	if paths != nil {
		r.HTTP = &networkingv1.HTTPIngressRuleValue{Paths: paths}
	}
	return r
}

func at(kind networkingv1.PathType, path, service string) networkingv1.HTTPIngressPath {
	return networkingv1.HTTPIngressPath{PathType: &kind, Path: path, Backend: to(service)}
}

const (
	exact    = networkingv1.PathTypeExact
	prefix   = networkingv1.PathTypePrefix
	specific = networkingv1.PathTypeImplementationSpecific
)

func ingress(name string, age time.Duration, fallback string, rules ...networkingv1.IngressRule) *networkingv1.Ingress {
	i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))}}
	i.Spec.Rules = rules
	if fallback != "" {
		b := to(fallback)
		i.Spec.DefaultBackend = &b
	}
	return i
}

func TestMatch(t *testing.T) {
	paths := Compile([]*networkingv1.Ingress{
		ingress("paths", 0, "", rule("shop.example",
			at(prefix, "/", "root"), at(prefix, "/a", "a"), at(exact, "/a", "a-exactly"), at(prefix, "/a/b/", "ab"), at(exact, "/c/", "c-slash"), at(specific, "/d", "d"))),
		ingress("wild", 0, "", rule("*.shop.example", at(prefix, "/w", "wild")), rule("one.shop.example", at(prefix, "/", "one"))),
	})
	all := Compile([]*networkingv1.Ingress{
		ingress("new", 0, "", rule("", at(prefix, "/a", "newer"), at(specific, "/b", "b"))),
		ingress("old", time.Hour, "", rule("", at(prefix, "/a", "older"))),
	})
	fallback := Compile([]*networkingv1.Ingress{
		ingress("own", 0, "own", rule("own.example", at(exact, "/a", "a")), rule("bare.example")),
		ingress("other", 0, "", rule("other.example", at(exact, "/a", "a"))),
		ingress("global", time.Hour, "global"),
	})
	for _, k := range []struct {
		t          *Table
		host, path string
		want       string
		match      Match
	}{
		{paths, "shop.example", "/", "root", Host},
		{paths, "shop.example", "/x/y", "root", Host},
		{paths, "shop.example", "/a", "a-exactly", Host},
		{paths, "shop.example", "/a/", "a", Host},
		{paths, "shop.example", "/a/x", "a", Host},
		{paths, "shop.example", "/ab", "root", Host},
		{paths, "shop.example", "/a/b", "ab", Host},
		{paths, "shop.example", "/a/b/c", "ab", Host},
		{paths, "shop.example", "/a/bc", "a", Host},
		{paths, "shop.example", "/c", "root", Host},
		{paths, "shop.example", "/c/", "c-slash", Host},
		{paths, "shop.example", "/c/d", "root", Host},
		{paths, "shop.example", "/d/e", "d", Host},
		{paths, "SHOP.example.:8080", "/a/b", "ab", Host},
		{paths, "two.shop.example", "/w/x", "wild", Host},
		{paths, "two.shop.example", "/x", "", NoPath},
		{paths, "one.shop.example", "/w", "one", Host},
		{paths, "deep.two.shop.example", "/w", "", Unknown},
		{paths, "elsewhere.example", "/a", "", Unknown},
		{paths, "localhost", "/a", "", Unknown},
		{paths, "", "/a", "", Unknown},
		{paths, "[::1]:80", "/a", "", Unknown},
		{all, "anything", "/a", "older", Any},
		{all, "10.0.0.1:8080", "/b/c", "b", Any},
		{all, "anything", "/c", "", Unknown},
		{fallback, "own.example", "/a", "a", Host},
		{fallback, "own.example", "/b", "own", Host},
		{fallback, "bare.example", "/b", "own", Host},
		{fallback, "other.example", "/b", "global", Host},
		{fallback, "nobody.example", "/b", "global", Any},
	} {
		b, m := k.t.Match(k.host, k.path)
		if b.Service != k.want || m != k.match || k.want != "" && (b.Namespace != "shop" || b.Port.Number != 80) {
			t.Errorf("%s%s: %+v %d, want %q %d", k.host, k.path, b, m, k.want, k.match)
		}
	}
	if !Compile(nil).Empty() || paths.Empty() || all.Empty() || fallback.Empty() {
		t.Error("Empty is wrong")
	}
}
