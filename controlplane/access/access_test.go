package access

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

func pod(name, node string, spec corev1.PodSpec) *corev1.Pod {
	spec.NodeName = node
	if spec.Containers == nil {
		spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "fn", Name: name}, Spec: spec}
}

// disk is a volume on a node's disk, or of all nodes for "", that a claim has.
func disk(name, node, claim string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{api.FinalizerDisk}}}
	v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: api.LocalProvisioner, VolumeHandle: name}
	if node != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
	}
	if claim != "" {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "fn", Name: claim}
	}
	return v
}

// What a node may do: every verb on every kind but those that the list names is
// refused, whatever the name.
func TestWhatANodeMayDo(t *testing.T) {
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	o := memory.New()
	var uid string
	for _, obj := range []api.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "fn"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}},
		pod("mine", "n1", corev1.PodSpec{
			ImagePullSecrets: []corev1.LocalObjectReference{ref("pull")},
			Volumes: []corev1.Volume{
				{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "files"}}},
				{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
				{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref("settings")}}},
				{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{Secret: &corev1.SecretProjection{LocalObjectReference: ref("projected")}},
				}}}},
			},
			InitContainers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("all")}}}}},
			Containers: []corev1.Container{{Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{
				ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("one")},
			}}}}},
		}),
		disk("own", "n1", ""), disk("others", "n2", "theirs"), disk("shared", "", "data"),
		disk("cleared", "n1", ""), disk("cleared-elsewhere", "n2", "theirs"),
		pod("other", "n2", corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{ref("others")}}),
	} {
		stored, err := o.Create(t.Context(), obj)
		if err != nil {
			t.Fatal(err)
		}
		if stored.GetName() == "n1" {
			uid = string(stored.GetUID())
		}
		if strings.HasPrefix(stored.GetName(), "cleared") {
			if _, err := o.Delete(t.Context(), api.PersistentVolumes, "", stored.GetName(), api.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	mine := fields.OneTermEqualSelector("spec.nodeName", "n1")
	may := map[string]bool{
		"update nodes n1": true, "patch nodes n1": true, "update nodes/status n1": true, "patch nodes/status n1": true,
		"get leases n1 in " + api.SystemNamespace: true, "update leases n1 in " + api.SystemNamespace: true, "patch leases n1 in " + api.SystemNamespace: true,
		"list pods of n1": true, "watch pods of n1": true,
	}
	for _, v := range []string{"create", "get", "update", "patch"} {
		for _, n := range []string{"", "mine", "other", "n1", "n2", "files"} {
			may[v+" events "+n+" in fn"], may[v+" events "+n+" in "+api.SystemNamespace] = true, true
			may[v+" events "+n] = true
		}
	}
	for _, p := range []string{"mine", "n1", "n2", "files"} { // the last three are not there
		may["get pods "+p+" in fn"], may["delete pods "+p+" in fn"] = true, true
		may["update pods/status "+p+" in fn"], may["patch pods/status "+p+" in fn"] = true, true
	}
	for _, p := range []string{"", "mine", "other", "n1", "n2", "files"} { // nothing is there
		for _, ns := range []string{"", " in " + api.SystemNamespace} {
			may["get pods "+p+ns], may["delete pods "+p+ns] = true, true
			may["update pods/status "+p+ns], may["patch pods/status "+p+ns] = true, true
		}
	}
	may["get pods  in fn"], may["delete pods  in fn"], may["update pods/status  in fn"], may["patch pods/status  in fn"] = true, true, true, true
	for _, n := range []string{"", "mine", "other", "n1", "n2", "files"} { // mirrors alone: see TestMirrors
		for _, ns := range []string{"", " in fn", " in " + api.SystemNamespace} {
			may["create pods "+n+ns] = true
		}
	}
	may["get secrets files in fn"], may["watch secrets files in fn"] = true, true
	u := User{Name: NodeUser("n1"), Groups: []string{Nodes}, UID: uid}
	for _, r := range api.Resources {
		for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"} {
			for _, sub := range []string{"", "status", "scale", "binding", "eviction", "log"} {
				for _, ns := range []string{"", "fn", api.SystemNamespace} {
					for _, name := range []string{"", "mine", "other", "n1", "n2", "files"} {
						q := Request{Verb: verb, Resource: r, Subresource: sub, Namespace: ns, Name: name}
						key := verb + " " + r.Plural
						if sub != "" {
							key += "/" + sub
						}
						key += " " + name
						if ns != "" {
							key += " in " + ns
						}
						want := may[key]
						if sub == "" && (verb == "get" || verb == "list" || verb == "watch") {
							switch r {
							case api.Nodes, api.Namespaces, api.Services, api.Endpoints, api.EndpointSlices, api.NetworkPolicies, api.IngressClasses, api.Ingresses, api.Functions, api.Deployments:
								want = true
							case api.PersistentVolumes: // of those there is none of the names
								want = verb == "get"
							case api.Pods: // as much as Trim leaves
								want = want || verb != "get"
							}
						}
						if r == api.PersistentVolumes && sub == "" && verb == "update" {
							want = true
						}
						if (r == api.Nodes || r == api.Events) && ns != "" {
							continue // Nodes have no namespace; of Events that is decided above
						}
						if r == api.Events && sub != "" {
							continue // Events have none
						}
						if got := Allow(t.Context(), u, q, o) == nil; got != want {
							t.Errorf("%s: allowed %v, want %v", key, got, want)
						}
					}
				}
			}
		}
	}
	for _, tt := range []struct {
		q    Request
		want bool
	}{
		{Request{Verb: "list", Resource: api.Pods, Fields: mine}, true},
		{Request{Verb: "watch", Resource: api.Pods, Fields: mine}, true},
		{Request{Verb: "deletecollection", Resource: api.Pods, Fields: mine}, false},
		{Request{Verb: "list", Resource: api.Pods, Fields: fields.OneTermEqualSelector("spec.nodeName", "n2")}, true},
		{Request{Verb: "get", Resource: api.PersistentVolumeClaims, Namespace: "fn", Name: "data"}, true},
		{Request{Verb: "get", Resource: api.PersistentVolumeClaims, Namespace: "fn", Name: "theirs"}, false},
		{Request{Verb: "update", Resource: api.PersistentVolumeClaims, Namespace: "fn", Name: "data"}, false},
		{Request{Verb: "list", Resource: api.PersistentVolumes, Fields: mine}, true},
		{Request{Verb: "watch", Resource: api.PersistentVolumes, Fields: mine}, true},
		{Request{Verb: "watch", Resource: api.PersistentVolumes, Fields: fields.OneTermEqualSelector("spec.nodeName", "n2")}, false},
		{Request{Verb: "get", Resource: api.PersistentVolumes, Name: "own"}, true},
		{Request{Verb: "get", Resource: api.PersistentVolumes, Name: "shared"}, true},
		{Request{Verb: "get", Resource: api.PersistentVolumes, Name: "others"}, false},
		{Request{Verb: "update", Resource: api.PersistentVolumes, Name: "own"}, false},
		{Request{Verb: "update", Resource: api.PersistentVolumes, Name: "shared"}, false},
		{Request{Verb: "update", Resource: api.PersistentVolumes, Name: "cleared"}, true},
		{Request{Verb: "update", Resource: api.PersistentVolumes, Name: "cleared-elsewhere"}, false},
		{Request{Verb: "update", Resource: api.PersistentVolumes, Subresource: "status", Name: "cleared"}, false},
		{Request{Verb: "get", Resource: api.Secrets, Namespace: "fn", Name: "pull"}, true},
		{Request{Verb: "get", Resource: api.Secrets, Namespace: "fn", Name: "projected"}, true},
		{Request{Verb: "get", Resource: api.Secrets, Namespace: "fn", Name: "all"}, true},
		{Request{Verb: "get", Resource: api.Secrets, Namespace: "fn", Name: "others"}, false},
		{Request{Verb: "get", Resource: api.Secrets, Namespace: "fn", Name: "settings"}, false},
		{Request{Verb: "get", Resource: api.Secrets, Namespace: "elsewhere", Name: "files"}, false},
		{Request{Verb: "get", Resource: api.ConfigMaps, Namespace: "fn", Name: "settings"}, true},
		{Request{Verb: "get", Resource: api.ConfigMaps, Namespace: "fn", Name: "one"}, true},
		{Request{Verb: "get", Resource: api.ConfigMaps, Namespace: "fn", Name: "files"}, false},
		{Request{Verb: "post", Path: CapacityRoot + "/capacity/n1/report"}, true},
		{Request{Verb: "post", Path: CapacityRoot + "/capacity/n2/report"}, false},
		{Request{Verb: "post", Path: CapacityRoot + "/capacity/n1"}, true},
		{Request{Verb: "get", Path: GatewayRoot + "/system/functions"}, true}, // which asks for a password of its own
		{Request{Verb: "get", Path: GatewayRoot + "x"}, false},
		{Request{Verb: "get", Path: ImagesRoot + "/v2/f/blobs/x"}, true},
		{Request{Verb: "put", Path: ImagesRoot + "/v2/f/manifests/x"}, false},
		{Request{Verb: "post", Path: AgentsRoot + "/n2/agent/pods/u/frozen"}, true},
		{Request{Verb: "post", Path: AgentsRoot + "/n2/agent/pods/u/exec"}, false},
		{Request{Verb: "post", Path: AgentsRoot + "/n2/agent/pods"}, false},
		{Request{Verb: "get", Path: AgentsRoot + "/n1/agent/pods"}, false},
		{Request{Verb: "get", Path: "/version"}, true},
		{Request{Verb: "get", Path: "/apis/metrics.k8s.io/v1beta1"}, true},
		{Request{Verb: "list", Resource: PodMetrics, Namespace: "d"}, false},
		{Request{Verb: "get", Path: "/metrics"}, false},
	} {
		if err := Allow(t.Context(), u, tt.q, o); (err == nil) != tt.want || err != nil && !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want allowed %v", tt.q, err, tt.want)
		}
	}
	for _, u := range []User{
		{Name: NodeUser("n1"), UID: uid},
		{Name: "n1", Groups: []string{Nodes}, UID: uid},
		{},
		{Name: NodeUser("n1"), Groups: []string{Nodes}, UID: "of a former one"},
		{Name: NodeUser("n3"), Groups: []string{Nodes}},
	} {
		if err := Allow(t.Context(), u, Request{Verb: "get", Resource: api.Nodes}, o); !apierrors.IsForbidden(err) {
			t.Errorf("%+v: %v, want Forbidden", u, err)
		}
	}
	if err := Allow(t.Context(), User{Groups: []string{Masters}}, Request{Verb: "delete", Resource: api.Secrets}, o); err != nil {
		t.Errorf("an administrator: %v", err)
	}
}

func TestWhoAsks(t *testing.T) {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: NodeUser("n1"), Organization: []string{Nodes}}}
	verified := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
	for _, tt := range []struct {
		name, header, token string
		tls                 *tls.ConnectionState
		want                string
	}{
		{"nobody", "", "secret", nil, ""},
		{"the token", "Bearer secret", "secret", nil, "admin"},
		{"in other letters", "bearer secret", "secret", nil, "admin"},
		{"another token", "Bearer secre", "secret", nil, ""},
		{"another scheme", "Basic secret", "secret", nil, ""},
		{"no token is wanted", "", "", nil, "admin"},
		{"a certificate", "", "secret", verified, "system:node:n1"},
		{"a certificate with a token", "Bearer secret", "secret", verified, "system:node:n1"},
		{"one that was not verified", "", "secret", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}, ""},
	} {
		r := httptest.NewRequest("GET", "/api", nil)
		r.TLS = tt.tls
		if tt.header != "" {
			r.Header.Set("Authorization", tt.header)
		}
		u, ok := Authenticate(r, tt.token)
		if u.Name != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: %+v %v, want %q", tt.name, u, ok, tt.want)
		}
	}
}

// A server is believed who has asked it; nobody else is, and who has asked it
// without saying who he is, is nobody.
func TestHandedOn(t *testing.T) {
	tlsOf := func(name, group string) *tls.ConnectionState {
		cert := &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: []string{group}}}
		return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
	}
	server, node := tlsOf("system:server", Masters), tlsOf(NodeUser("n1"), Nodes)
	other := User{Name: NodeUser("n2"), Groups: []string{Nodes}, UID: "u2"}
	for _, tt := range []struct {
		name string
		tls  *tls.ConnectionState
		say  *User
		want User
	}{
		{"a server for a node", server, &other, other},
		{"a server for nobody", server, &User{}, User{}},
		{"a server for itself", server, nil, User{Name: "system:server", Groups: []string{Masters}}},
		{"a node for another", node, &other, User{Name: NodeUser("n1"), Groups: []string{Nodes}}},
		{"somebody for a node", nil, &other, User{}},
	} {
		r := httptest.NewRequest("GET", "/api", nil)
		r.TLS = tt.tls
		if tt.say != nil {
			HandOn(r.Header, *tt.say)
		}
		u, ok := Authenticate(r, "secret")
		if u.Name != tt.want.Name || u.UID != tt.want.UID || !slices.Equal(u.Groups, tt.want.Groups) || ok != (tt.want.Name != "") {
			t.Errorf("%s: %+v %v, want %+v", tt.name, u, ok, tt.want)
		}
		Unsay(r.Header)
		if len(r.Header) != 0 {
			t.Errorf("%s: left are %v", tt.name, r.Header)
		}
	}
}
