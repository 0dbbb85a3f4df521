package engine

import (
	"fmt"
	"net"
	"net/http"
	gopath "path"
	"strings"

	"github.com/distribution/reference"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// Registries say where images are looked for.
type Registries struct {
	// Embedded is the platform's own registry. Names without a registry, and
	// those of docker.io, are looked for there first, without library/.
	Embedded *Registry
	// Mirrors are tried before a registry itself, by its host (docker.io).
	Mirrors map[string][]Registry
}

// Registry is a server of images.
type Registry struct {
	Host        string                         // and port
	Insecure    bool                           // plain HTTP
	Credentials func() (user, password string) // nil is anonymous
	Path        string                         // before the API's; "" is /v2
	Client      *http.Client                   // to reach it with; nil is one of its own
}

// source is one place to look for an image.
type source struct {
	ref      string // with the registry's host, for the resolver
	label    string // for a person
	insecure bool
	creds    func() (user, password string)
	path     string
	client   *http.Client
}

// normalize makes the full name of an image: registry, repository, tag or
// digest. It is the name in the node's store.
func normalize(ref string) (reference.Named, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, fmt.Errorf("image name %q is not valid: %w", ref, err)
	}
	return named, nil
}

// sources lists, in order, where the image is looked for, and as whom: the logins are
// for the image's own registry.
func (r Registries) sources(named reference.Named, logins ...runtime.Login) []source {
	const hub = "docker.io"
	host, path := reference.Domain(named), reference.Path(named)
	version := strings.TrimPrefix(named.String(), named.Name()) // :tag or @digest
	var out []source
	add := func(reg Registry, path, label string) {
		out = append(out, source{ref: reg.Host + "/" + path + version, label: label, insecure: reg.Insecure, creds: reg.Credentials, path: reg.Path, client: reg.Client})
	}
	if r.Embedded != nil && (host == hub || host == r.Embedded.Host) {
		add(*r.Embedded, strings.TrimPrefix(path, "library/"), "the platform's registry")
		if host == r.Embedded.Host {
			return out
		}
	}
	for _, m := range r.Mirrors[host] {
		add(m, path, "the mirror "+m.Host)
	}
	self := Registry{Host: host, Insecure: isLoopback(host)}
	for _, l := range logins {
		if isFor(l, host, path) {
			self.Credentials = func() (string, string) { return l.User, l.Password }
			add(self, path, host)
		}
	}
	self.Credentials = nil
	add(self, path, host)
	return out
}

// isFor tells whether a login counts for a repository of a registry.
func isFor(l runtime.Login, host, path string) bool {
	at, part, deep := strings.Cut(l.Scope, "/")
	want, have := strings.Split(at, "."), strings.Split(host, ".")
	if len(want) != len(have) || deep && path != part && !strings.HasPrefix(path, part+"/") {
		return false
	}
	for i := range want {
		if ok, err := gopath.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// isLoopback says whether a registry is on this machine, where TLS is not
// expected.
func isLoopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	return name == "localhost" || net.ParseIP(name).IsLoopback()
}
