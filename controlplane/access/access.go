// Package access says who asks, and what they may do. Administrators have a
// token and may do everything; nodes have a certificate of the cluster's own
// authority and may do what a node has to, to what is theirs; everybody else has a
// certificate, or a service account's token, and may do what roles say.
package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/storage"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// Names of users and groups, as Kubernetes has them.
const (
	Masters    = "system:masters" // may do everything
	Known      = "system:authenticated"
	Accounts   = "system:serviceaccounts"
	Nodes      = "system:nodes"
	nodePrefix = "system:node:"
)

// User is who asks.
type User struct {
	Name   string
	Groups []string
	UID    string // of a node: of the Node that the certificate was made for; of a service account: its own
	Extra  map[string][]string
}

// NodeUser is the name of a node's user.
func NodeUser(node string) string { return nodePrefix + node }

// Node is the node that a user is; "" is none.
func (u User) Node() string {
	name, ok := strings.CutPrefix(u.Name, nodePrefix)
	if !ok || !slices.Contains(u.Groups, Nodes) {
		return ""
	}
	return name
}

// Certified answers with who a connection's certificate says that a request is
// from; false without one that TLS has verified.
func Certified(r *http.Request) (User, bool) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return User{}, false
	}
	s := r.TLS.PeerCertificates[0].Subject
	return User{Name: s.CommonName, Groups: s.Organization, UID: s.SerialNumber}, true
}

// Headers in which a server says who has asked it for what it hands on, as
// proxies before a Kubernetes API do.
const (
	headerUser  = "X-Remote-User"
	headerGroup = "X-Remote-Group"
	headerUID   = "X-Remote-Uid"
)

// HandOn makes a request say that u has asked for it; nobody is u's zero.
func HandOn(h http.Header, u User) {
	h[headerUser], h[headerGroup], h[headerUID] = []string{u.Name}, slices.Clone(u.Groups), []string{u.UID}
}

// Unsay takes out of a request what only servers may say in it.
func Unsay(h http.Header) {
	for _, k := range []string{headerUser, headerGroup, headerUID} {
		delete(h, k)
	}
}

// Authenticate answers with who has sent a request: who is Certified, or by the
// bearer token, which is the administrators'. An empty token makes everybody else
// an administrator. Servers are believed who has asked them, nobody else is.
func Authenticate(r *http.Request, token string) (User, bool) {
	admin := User{Name: "admin", Groups: []string{Masters}}
	if u, ok := Certified(r); ok {
		if by, handed := r.Header[headerUser]; handed && slices.Contains(u.Groups, Masters) {
			u = User{Name: strings.Join(by, ""), Groups: r.Header[headerGroup], UID: r.Header.Get(headerUID)}
			return u, u.Name != ""
		}
		return u, true
	}
	if token == "" {
		return admin, true
	}
	scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	// Digests have one length, so that not even that is told by the time it takes.
	a, b := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(token))
	if strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(a[:], b[:]) == 1 {
		return admin, true
	}
	return User{}, false
}

type userKey struct{}

// With is ctx with who asks.
func With(ctx context.Context, u User) context.Context { return context.WithValue(ctx, userKey{}, u) }

// Of is who asks; nobody if that is not in ctx.
func Of(ctx context.Context) User {
	u, _ := ctx.Value(userKey{}).(User)
	return u
}

// Request is what is asked for. Of what is no object Resource is nil, and Path
// says what it is.
type Request struct {
	Verb        string // get, list, watch, create, update, patch, delete or deletecollection
	Resource    *api.Resource
	Subresource string
	Namespace   string
	Name        string
	Fields      fields.Selector // of a list or watch; nil is everything
	Path        string
}

func (r Request) String() string {
	if r.Resource == nil {
		return fmt.Sprintf("%s path %q", r.Verb, r.Path)
	}
	q := r.attributes()
	s := fmt.Sprintf("%s resource %q in API group %q", q.Verb, q.Resource, q.Group)
	if q.Namespace != "" {
		return s + fmt.Sprintf(" in the namespace %q", q.Namespace)
	}
	return s + " at the cluster scope"
}

// Allow answers with nil when an administrator or a node may do what is asked for,
// otherwise with a Forbidden that says what is not allowed. Which nodes and pods
// there are it asks o. For everybody else see Gate.
func Allow(ctx context.Context, u User, r Request, o api.Objects) error {
	if slices.Contains(u.Groups, Masters) {
		return nil
	}
	why, err := "", error(nil)
	if u.Node() != "" {
		if why, err = ofNode(ctx, u, r, o); why == "" || err != nil {
			return err
		}
	}
	return forbidden(u, r, why)
}

// ofNode answers with why a node may not do something; "" is that it may.
func ofNode(ctx context.Context, u User, r Request, o api.Objects) (why string, err error) {
	n, err := api.Get[*corev1.Node](ctx, o, api.Nodes, "", u.Node())
	switch {
	case apierrors.IsNotFound(err):
		return "the node was removed from the cluster; to come back it has to join anew", nil
	case err != nil:
		return "", err
	case string(n.UID) != u.UID:
		return "another machine has joined under this name since", nil
	}
	return allowNode(ctx, n.Name, r, o)
}

// forbidden is the answer that kubectl and its users know.
func forbidden(u User, r Request, why string) error {
	who := fmt.Errorf("User %q cannot %s", u.Name, r)
	if why != "" {
		who = fmt.Errorf("%w: %s", who, why)
	}
	if r.Resource != nil {
		return apierrors.NewForbidden(r.Resource.GR(), r.Name, who)
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		Message: "forbidden: " + who.Error(), Details: &metav1.StatusDetails{},
	}}
}

// public are the kinds that every node reads: where what is, but nothing of what
// it holds.
var public = []*api.Resource{api.Nodes, api.Namespaces, api.Services, api.Endpoints, api.EndpointSlices, api.NetworkPolicies, api.IngressClasses, api.Ingresses, api.Functions, api.Deployments}

// allowNode answers with why a node may not do something; "" is that it may.
func allowNode(ctx context.Context, node string, r Request, o api.Objects) (why string, err error) {
	reads := r.Verb == "get" || r.Verb == "list" || r.Verb == "watch"
	writes := r.Verb == "update" || r.Verb == "patch"
	switch {
	case r.Resource == nil:
		return allowPath(node, r), nil
	case reads && r.Subresource == "" && slices.Contains(public, r.Resource):
		return "", nil
	}
	switch r.Resource {
	case api.Nodes:
		if writes && r.Name == node && (r.Subresource == "" || r.Subresource == "status") {
			return "", nil
		}
		return "a node may write its own Node only", nil
	case api.Leases:
		if r.Namespace == api.SystemNamespace && r.Name == node && r.Subresource == "" && (r.Verb == "get" || writes) {
			return "", nil
		}
		return "a node may renew its own Lease only", nil
	case api.Events:
		if r.Verb == "create" || r.Verb == "get" || writes {
			return "", nil
		}
		return "a node may tell of events, not read what others tell", nil
	case api.Pods:
		return allowPod(ctx, node, r, o)
	case api.ServiceAccounts:
		return allowAccount(ctx, node, r, o)
	case api.Secrets, api.ConfigMaps, api.PersistentVolumeClaims:
		return allowData(ctx, node, r, o)
	case api.PersistentVolumes:
		return allowVolume(ctx, node, r, o)
	}
	return "nodes have no business with that", nil
}

func allowPod(ctx context.Context, node string, r Request, o api.Objects) (string, error) {
	switch {
	case (r.Verb == "list" || r.Verb == "watch") && r.Subresource == "":
		return "", nil // see View
	case r.Verb == "create" && r.Subresource == "":
		return "", nil // see mirror
	case r.Verb == "get" && r.Subresource == "", r.Verb == "delete" && r.Subresource == "",
		(r.Verb == "update" || r.Verb == "patch") && r.Subresource == "status":
	default:
		return "a node may write its pods' status only", nil
	}
	p, err := api.Get[*corev1.Pod](ctx, o, api.Pods, r.Namespace, r.Name)
	switch {
	case apierrors.IsNotFound(err):
		return "", nil // and that it is told
	case err != nil:
		return "", err
	case p.Spec.NodeName != node:
		return "the pod is not bound to this node", nil
	}
	return "", nil
}

func allowData(ctx context.Context, node string, r Request, o api.Objects) (string, error) {
	const no = "no pod on this node uses it"
	if r.Verb == "watch" && r.Fields != nil { // of one object
		r.Name, _ = r.Fields.RequiresExactMatch("metadata.name")
	}
	if r.Verb != "get" && (r.Verb != "watch" || r.Name == "") || r.Subresource != "" || r.Namespace == "" {
		return "a node may get what its pods use only", nil
	}
	mine, err := api.Items[*corev1.Pod](ctx, o, api.Pods, api.ListOptions{Namespace: r.Namespace, Fields: fields.OneTermEqualSelector("spec.nodeName", node)})
	if err != nil {
		return "", err
	}
	for _, p := range mine {
		if uses(p, r.Resource, r.Name) {
			return "", nil
		}
	}
	return no, nil
}

// allowPath is for what is no object. A node is a gateway of its own name.
func allowPath(node string, r Request) string {
	if own, ok := strings.CutPrefix(r.Path, CapacityRoot+"/capacity/"); ok {
		if name, _, _ := strings.Cut(own, "/"); name == node {
			return ""
		}
		return "a node is the gateway of its own name only"
	}
	for _, root := range []string{CapacityRoot + "/decisions/", GatewayRoot + "/", RenewPath} {
		if strings.HasPrefix(r.Path, root) {
			return ""
		}
	}
	reads := r.Verb == "get" || r.Verb == "head"
	switch {
	case r.Path == ServersPath && reads:
		return ""
	case strings.HasPrefix(r.Path, ImagesRoot+"/") && reads:
		return ""
	case strings.HasPrefix(r.Path, AgentsRoot+"/") && r.Verb == "post" && strings.HasSuffix(r.Path, "/frozen"):
		return "" // its gateway thaws what a call is for
	}
	if r.Verb == "get" && (r.Path == "/version" || r.Path == "/api" || r.Path == "/apis" || strings.HasPrefix(r.Path, "/openapi") || strings.HasPrefix(r.Path, "/api/") || strings.HasPrefix(r.Path, "/apis/")) {
		return "" // what the API is like
	}
	return "nodes have no business there"
}

// MetricsRoot is the path of what nodes and pods use.
const MetricsRoot = "/apis/metrics.k8s.io/v1beta1"

// Paths beside the objects' that the API server's door has for nodes.
const (
	Root         = "/podsnap/v1"
	CapacityRoot = Root
	GatewayRoot  = Root + "/gateway" // a server's gateway
	ImagesRoot   = Root + "/images"  // its registry
	AgentsRoot   = Root + "/agents"  // the agents of all nodes, by name
	JoinPath     = Root + "/join"
	RenewPath    = Root + "/renew"
	ServersPath  = Root + "/servers" // where all servers are reached
)

// uses tells whether a pod names a Secret, a ConfigMap or a claim.
func uses(p *corev1.Pod, r *api.Resource, name string) bool {
	if r == api.PersistentVolumeClaims {
		return slices.Contains(storage.Names(p), name)
	}
	secret := r == api.Secrets
	if secret && slices.ContainsFunc(p.Spec.ImagePullSecrets, func(s corev1.LocalObjectReference) bool { return s.Name == name }) {
		return true
	}
	for i := range p.Spec.Volumes {
		if inVolume(&p.Spec.Volumes[i], secret, name) {
			return true
		}
	}
	for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range cs {
			if inEnv(&cs[i], secret, name) {
				return true
			}
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if inEnv((*corev1.Container)(&p.Spec.EphemeralContainers[i].EphemeralContainerCommon), secret, name) {
			return true
		}
	}
	return false
}

func inVolume(v *corev1.Volume, secret bool, name string) bool {
	switch {
	case secret && v.Secret != nil:
		return v.Secret.SecretName == name
	case !secret && v.ConfigMap != nil:
		return v.ConfigMap.Name == name
	case v.Projected == nil:
		return false
	}
	return slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
		if secret {
			return s.Secret != nil && s.Secret.Name == name
		}
		return s.ConfigMap != nil && s.ConfigMap.Name == name
	})
}

func inEnv(c *corev1.Container, secret bool, name string) bool {
	for _, e := range c.EnvFrom {
		if secret && e.SecretRef != nil && e.SecretRef.Name == name || !secret && e.ConfigMapRef != nil && e.ConfigMapRef.Name == name {
			return true
		}
	}
	for _, e := range c.Env {
		f := e.ValueFrom
		if f == nil {
			continue
		}
		if secret && f.SecretKeyRef != nil && f.SecretKeyRef.Name == name || !secret && f.ConfigMapKeyRef != nil && f.ConfigMapKeyRef.Name == name {
			return true
		}
	}
	return false
}
