package apiserver

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"
	discoveryv2 "k8s.io/api/apidiscovery/v2"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/custom"
)

// discovery holds the documents that say what the server has, by path. They are
// what they are as long as the kinds are the same.
type discovery map[string]document

// document is one in its forms; aggregated is empty where there is none.
type document struct {
	legacy, aggregated body
}

type body struct {
	json []byte
	etag string
}

func newBody(v any) body {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body{json: append(b, '\n'), etag: fmt.Sprintf("%q", fmt.Sprintf("%X", sha256.Sum256(b)))}
}

func verbs(r *api.Resource) []string {
	if api.IsVacant(r) {
		return []string{"get", "list", "watch"}
	}
	return []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
}

// part is a subresource as discovery shows it.
type part struct {
	name  string
	kind  schema.GroupVersionKind
	verbs []string
}

func parts(r *api.Resource) []part {
	var out []part
	change := []string{"get", "patch", "update"}
	if r == api.Pods {
		for _, sub := range slices.Sorted(maps.Keys(connections)) {
			out = append(out, part{sub, schema.GroupVersionKind{Version: "v1", Kind: connections[sub]}, []string{"create", "get"}})
		}
		out = append(out,
			part{"binding", schema.GroupVersionKind{Version: "v1", Kind: "Binding"}, []string{"create"}},
			part{"eviction", schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, []string{"create"}},
			part{"ephemeralcontainers", r.GVK(), change},
			part{"log", r.GVK(), []string{"get"}})
	}
	if r == api.ServiceAccounts {
		out = append(out, part{"token", authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), []string{"create"}})
	}
	if r == api.Namespaces {
		out = append(out, part{"finalize", r.GVK(), []string{"update"}})
	}
	if r == api.CertificateSigningRequests {
		out = append(out, part{api.Approval, r.GVK(), change})
	}
	if r.Scale {
		out = append(out, part{"scale", scaleKind(), change})
	}
	if r.Status {
		out = append(out, part{"status", r.GVK(), change})
	}
	return out
}

// categories lists the groups of kinds that kubectl can get at once.
func categories(r *api.Resource) []string {
	if k := custom.Of(r); k != nil {
		return k.Categories()
	}
	switch newCall(r).resource {
	case api.Pods, api.Services, api.Deployments, api.ReplicaSets, api.ReplicationControllers, api.Functions,
		api.DaemonSets, api.StatefulSets, api.Jobs, api.CronJobs, api.HorizontalPodAutoscalers:
		return []string{"all"}
	}
	return nil
}

// answered are the groups of which nothing is stored, in their order.
func answered() iter.Seq2[schema.GroupVersion, []metav1.APIResource] {
	return func(yield func(schema.GroupVersion, []metav1.APIResource) bool) {
		_ = yield(authenticationv1.SchemeGroupVersion, reviewKinds(authenticationv1.GroupName)) &&
			yield(authorizationv1.SchemeGroupVersion, reviewKinds(authorizationv1.GroupName)) &&
			yield(metricsv1.SchemeGroupVersion, usageKinds())
	}
}

// discover describes the resources. Those of a group's best version come before
// those of its others.
func discover(resources []*api.Resource) discovery {
	byVersion := map[schema.GroupVersion][]*api.Resource{}
	versionsOf := map[string][]schema.GroupVersion{}
	for _, r := range resources {
		gv := r.GVK().GroupVersion()
		if byVersion[gv] == nil {
			versionsOf[gv.Group] = append(versionsOf[gv.Group], gv)
		}
		byVersion[gv] = append(byVersion[gv], r)
	}
	d := discovery{}
	groups := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	core, named := aggregate(), aggregate()
	for _, group := range slices.Sorted(maps.Keys(versionsOf)) {
		var entry discoveryv2.APIGroupDiscovery
		entry.Name = group
		var lists []*metav1.APIResourceList
		for _, gv := range versionsOf[group] {
			entry.Versions = append(entry.Versions, discoveryv2.APIVersionDiscovery{
				Version: gv.Version, Resources: describe(byVersion[gv]), Freshness: discoveryv2.DiscoveryFreshnessCurrent,
			})
			lists = append(lists, resourceList(gv, byVersion[gv]))
		}
		if group == "" {
			d["/api/"+versionsOf[group][0].Version] = document{legacy: newBody(lists[0])}
			core.Items = append(core.Items, entry)
			continue
		}
		groups.Groups = append(groups.Groups, d.group(group, lists...))
		named.Items = append(named.Items, entry)
	}
	for gv, kinds := range answered() {
		groups.Groups = append(groups.Groups, d.group(gv.Group, &metav1.APIResourceList{TypeMeta: listType(), GroupVersion: gv.String(), APIResources: kinds}))
		named.Items = append(named.Items, describeAnswers(gv, kinds))
	}
	versions := &metav1.APIVersions{
		TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"},
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{},
	}
	d["/api"] = document{legacy: newBody(versions), aggregated: newBody(core)}
	d["/apis"] = document{legacy: newBody(groups), aggregated: newBody(named)}
	return d
}

// group adds the documents of a group, which has a list for each version, the best
// one first, and answers with what the list of groups has of it.
func (d discovery) group(name string, lists ...*metav1.APIResourceList) metav1.APIGroup {
	g := metav1.APIGroup{Name: name}
	for _, l := range lists {
		g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: l.GroupVersion, Version: strings.TrimPrefix(l.GroupVersion, name+"/")})
		d["/apis/"+l.GroupVersion] = document{legacy: newBody(l)}
	}
	g.PreferredVersion = g.Versions[0]
	out := g
	g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
	d["/apis/"+name] = document{legacy: newBody(g)}
	return out
}

func listType() metav1.TypeMeta { return metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"} }

// describeAnswers is the aggregated form of the kinds of a group that are not stored.
func describeAnswers(gv schema.GroupVersion, kinds []metav1.APIResource) discoveryv2.APIGroupDiscovery {
	v := discoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: discoveryv2.DiscoveryFreshnessCurrent}
	for _, k := range kinds {
		r := discoveryv2.APIResourceDiscovery{
			Resource: k.Name, SingularResource: k.SingularName, Verbs: k.Verbs, Scope: discoveryv2.ScopeCluster, ResponseKind: wireKind(gv.WithKind(k.Kind)),
		}
		if k.Namespaced {
			r.Scope = discoveryv2.ScopeNamespace
		}
		v.Resources = append(v.Resources, r)
	}
	g := discoveryv2.APIGroupDiscovery{Versions: []discoveryv2.APIVersionDiscovery{v}}
	g.Name = gv.Group
	return g
}

func aggregate() *discoveryv2.APIGroupDiscoveryList {
	return &discoveryv2.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/v2"},
		Items:    []discoveryv2.APIGroupDiscovery{},
	}
}

func describe(resources []*api.Resource) []discoveryv2.APIResourceDiscovery {
	out := make([]discoveryv2.APIResourceDiscovery, 0, len(resources))
	for _, r := range resources {
		a := discoveryv2.APIResourceDiscovery{
			Resource: r.Plural, SingularResource: r.Singular, ShortNames: r.Short, Categories: categories(r),
			Verbs: verbs(r), Scope: discoveryv2.ScopeCluster, ResponseKind: wireKind(r.GVK()),
		}
		if r.Namespaced {
			a.Scope = discoveryv2.ScopeNamespace
		}
		for _, p := range parts(r) {
			a.Subresources = append(a.Subresources, discoveryv2.APISubresourceDiscovery{
				Subresource: p.name, ResponseKind: wireKind(p.kind), Verbs: p.verbs,
			})
		}
		out = append(out, a)
	}
	return out
}

func wireKind(k schema.GroupVersionKind) *metav1.GroupVersionKind {
	return &metav1.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

func resourceList(gv schema.GroupVersion, resources []*api.Resource) *metav1.APIResourceList {
	out := &metav1.APIResourceList{TypeMeta: listType(), GroupVersion: gv.String()}
	for _, r := range resources {
		out.APIResources = append(out.APIResources, metav1.APIResource{
			Name: r.Plural, SingularName: r.Singular, Namespaced: r.Namespaced, Kind: r.Kind,
			Verbs: verbs(r), ShortNames: r.Short, Categories: categories(r),
		})
		for _, p := range parts(r) {
			sub := metav1.APIResource{Name: r.Plural + "/" + p.name, Namespaced: r.Namespaced, Kind: p.kind.Kind, Verbs: p.verbs}
			if p.kind.GroupVersion() != gv {
				sub.Group, sub.Version = p.kind.Group, p.kind.Version
			}
			out.APIResources = append(out.APIResources, sub)
		}
	}
	return out
}

func (s *Server) mountDiscovery() {
	for path := range s.surface().docs {
		s.mountDocument(s.mux, path)
	}
}

// mountDocument serves the present document of a path.
func (s *Server) mountDocument(m *chi.Mux, path string) {
	h := s.open(func(w http.ResponseWriter, r *http.Request) error {
		s.surface().docs[path].serve(w, r)
		return nil
	})
	m.Get(path, h)
	m.Get(path+"/", h)
}

func (d document) serve(w http.ResponseWriter, r *http.Request) {
	b, ct := d.legacy, "application/json"
	if len(d.aggregated.json) > 0 {
		w.Header().Set("Vary", "Accept")
		if v := aggregatedVersion(r); v != "" {
			b, ct = d.aggregated, "application/json;g=apidiscovery.k8s.io;v="+v+";as=APIGroupDiscoveryList"
		}
	}
	w.Header().Set("ETag", b.etag)
	if r.Header.Get("If-None-Match") == b.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", ct)
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(b.json) // the client has gone: nobody is left to tell
}

// aggregatedVersion is the version of the aggregated form that the client
// prefers to the legacy one; "" when it does not.
func aggregatedVersion(r *http.Request) string {
	for clause := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		media, params, err := mime.ParseMediaType(clause)
		if err != nil {
			continue
		}
		if params["as"] == "" && (media == "application/json" || media == "*/*") {
			return ""
		}
		if media == "application/json" && params["g"] == "apidiscovery.k8s.io" && params["as"] == "APIGroupDiscoveryList" && params["v"] == "v2" {
			return "v2"
		}
	}
	return ""
}

// apiVersion is the Kubernetes release whose API this is; clients compare it
// with their own.
const apiVersion = "v1.33.0"

func (s *Server) version(w http.ResponseWriter, _ *http.Request) error {
	own := strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '.' || c == '-' {
			return c
		}
		return '-'
	}, s.cfg.Version)
	v := version.Info{
		Major: "1", Minor: "33", GitVersion: apiVersion + "+podsnap", GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if own != "" {
		v.GitVersion += "." + own
	}
	writeJSON(w, http.StatusOK, v)
	return nil
}
