package gateway

import (
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway/invoke"
	"k8s.io/apimachinery/pkg/types"
)

// clusterDomain ends the names of the cluster; it is the name servers' default.
const clusterDomain = ".cluster.local"

// byName turns a request that was sent to a function's own name, as pods know it
// (http://hello.openfaas-fn:8080/path), into an invocation. Its name leads to the
// gateway, so that calls from inside the cluster wake it and are counted too.
func (g *Gateway) byName(r *http.Request) (*http.Request, bool) {
	k, ok := functionOf(r.Host)
	if !ok {
		return nil, false
	}
	if _, ok := g.functions.Get(k.Namespace, k.Name); !ok {
		return nil, false
	}
	return below(r, k), true
}

// below is a request as an invocation of a function, for the same path below it.
func below(r *http.Request, k types.NamespacedName) *http.Request {
	prefix := invoke.Prefix + k.Name + "." + k.Namespace
	out := new(http.Request)
	*out = *r
	out.URL = new(url.URL)
	*out.URL = *r.URL
	out.URL.Path = prefix + r.URL.Path
	if r.URL.RawPath != "" {
		out.URL.RawPath = prefix + r.URL.RawPath
	}
	return out
}

// functionOf reads a host as the name of a function's Service: name,
// name.namespace, and with .svc and the cluster's domain behind. A name alone is
// one of the usual namespace.
func functionOf(host string) (types.NamespacedName, bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	host = strings.TrimSuffix(strings.TrimSuffix(host, clusterDomain), ".svc")
	name, ns, ok := strings.Cut(host, ".")
	if !ok {
		ns = api.FunctionNamespace
	}
	if name == "" || name == "localhost" || name == "gateway" || ns == "" || strings.ContainsAny(name+ns, ".:") {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: ns, Name: name}, true
}
