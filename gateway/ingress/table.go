package ingress

import (
	"cmp"
	"net"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
)

// Backend is a Service's port: where a request goes.
type Backend struct {
	Namespace, Service string
	Port               networkingv1.ServiceBackendPort
}

// Match is what a table says of a request.
type Match int

// What a table may say.
const (
	Unknown Match = iota // no Ingress has the host, and none of those of all hosts has the path
	NoPath               // the host is an Ingress's, but the path is nobody's
	Host                 // a rule or default backend of the host
	Any                  // a rule of all hosts, or the default backend
)

// Table is the rules of all Ingresses. It is immutable.
type Table struct {
	hosts map[string]*rules // by host, "*.example.com" too
	any   rules             // of no host
}

// rules are the paths of one host.
type rules struct {
	paths    []path // those that count first are first
	fallback *Backend
}

type path struct {
	text    string // without a slash at the end, unless it is exact
	exact   bool
	backend Backend
}

// Compile makes the table of what ingresses say. Where two say something of one
// host and path the older one counts.
func Compile(ingresses []*networkingv1.Ingress) *Table {
	t := &Table{hosts: map[string]*rules{}}
	for _, i := range slices.SortedFunc(slices.Values(ingresses), older) {
		def := backend(i.Namespace, i.Spec.DefaultBackend)
		if t.any.fallback == nil {
			t.any.fallback = def
		}
		for _, r := range i.Spec.Rules {
			at := &t.any
			if r.Host != "" {
				h := canonical(r.Host)
				if t.hosts[h] == nil {
					t.hosts[h] = &rules{}
				}
				if at = t.hosts[h]; at.fallback == nil {
					at.fallback = def
				}
			}
			at.add(i.Namespace, r.HTTP)
		}
	}
	for _, r := range t.hosts {
		r.sort()
	}
	t.any.sort()
	return t
}

func older(a, b *networkingv1.Ingress) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func backend(namespace string, b *networkingv1.IngressBackend) *Backend {
	if b == nil || b.Service == nil {
		return nil
	}
	return &Backend{Namespace: namespace, Service: b.Service.Name, Port: b.Service.Port}
}

// add takes in a rule's paths. A rule without any is for all that its Ingress's
// default backend takes.
func (r *rules) add(namespace string, h *networkingv1.HTTPIngressRuleValue) {
	if h == nil {
		return
	}
	for n := range h.Paths {
		p := &h.Paths[n]
		b := backend(namespace, &p.Backend)
		if b == nil {
			continue
		}
		exact := p.PathType != nil && *p.PathType == networkingv1.PathTypeExact
		text := p.Path
		if !exact {
			text = strings.TrimSuffix(text, "/")
		}
		r.paths = append(r.paths, path{text: text, exact: exact, backend: *b})
	}
}

// sort puts longer paths first, and exact ones before others of the same length.
func (r *rules) sort() {
	slices.SortStableFunc(r.paths, func(a, b path) int {
		if n := cmp.Compare(len(b.text), len(a.text)); n != 0 {
			return n
		}
		switch {
		case a.exact == b.exact:
			return 0
		case a.exact:
			return -1
		}
		return 1
	})
}

func (r *rules) match(p string) (Backend, bool) {
	for i := range r.paths {
		if r.paths[i].takes(p) {
			return r.paths[i].backend, true
		}
	}
	if r.fallback != nil {
		return *r.fallback, true
	}
	return Backend{}, false
}

// takes compares whole elements: /a takes /a, /a/ and /a/b, but not /ab.
func (p *path) takes(s string) bool {
	if p.exact {
		return s == p.text
	}
	rest, ok := strings.CutPrefix(s, p.text)
	return ok && (rest == "" || rest[0] == '/')
}

// Empty tells whether it has no rules at all.
func (t *Table) Empty() bool {
	return len(t.hosts) == 0 && len(t.any.paths) == 0 && t.any.fallback == nil
}

// Match finds where a request goes that was sent to host, with or without a port,
// for a path that begins with a slash. Rules of the host itself count before
// those of all names below a domain (*.example.com: of one label), and these
// before those of all hosts; a host that has rules is not served by others'.
func (t *Table) Match(host, path string) (Backend, Match) {
	r := t.hosts[canonical(host)]
	if r == nil {
		r = t.hosts[wildcard(canonical(host))]
	}
	if r != nil {
		if b, ok := r.match(path); ok {
			return b, Host
		}
		if t.any.fallback != nil {
			return *t.any.fallback, Host
		}
		return Backend{}, NoPath
	}
	if b, ok := t.any.match(path); ok {
		return b, Any
	}
	return Backend{}, Unknown
}

// canonical is a host as tables have it: without port, in lower case, without a
// dot at its end.
func canonical(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// wildcard is the name of all that differ from host in its first label; "" of a
// host of one label.
func wildcard(host string) string {
	_, domain, ok := strings.Cut(host, ".")
	if !ok {
		return ""
	}
	return "*." + domain
}
