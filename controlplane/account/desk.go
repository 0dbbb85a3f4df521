// Package account makes tokens of service accounts, and says whose they are. A
// token is a signed JWT in the form of Kubernetes; it counts as long as the account
// and what it is bound to are there.
package account

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/rbac"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Issuer is who signs tokens, and whom they are for unless they say otherwise: the
// API server by its name in the cluster.
const Issuer = "https://kubernetes.default.svc.cluster.local"

// How long tokens live, in seconds: usually, at least, and at most.
const (
	usualLife = 60 * 60
	minLife   = 10 * 60
	maxLife   = 365 * 24 * 60 * 60
)

// grace is how long a token of a pod that is being deleted goes on beyond the end
// of the pod's own time.
const grace = time.Minute

// Config says what the desk works with; all of it has to be set but Now.
type Config struct {
	Objects api.Objects
	Key     *ecdsa.PrivateKey // of P-256
	Now     func() time.Time  // nil is the clock
}

// Desk makes tokens and reads them. Safe for concurrent use.
type Desk struct {
	c   Config
	kid string
}

var _ api.Tokens = (*Desk)(nil)

// New makes one.
func New(c Config) (*Desk, error) {
	if c.Objects == nil || c.Key == nil {
		return nil, errors.New("account: Config.Objects and Config.Key have to be set")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	der, err := x509.MarshalPKIXPublicKey(&c.Key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("account: the key: %w", err)
	}
	sum := sha256.Sum256(der)
	return &Desk{c: c, kid: base64.RawURLEncoding.EncodeToString(sum[:])}, nil
}

// claims is what a token says.
type claims struct {
	jwt.RegisteredClaims
	Private private `json:"kubernetes.io"`
}

type private struct {
	Namespace string `json:"namespace"`
	Account   ref    `json:"serviceaccount"`
	Pod       *ref   `json:"pod,omitempty"`
	Secret    *ref   `json:"secret,omitempty"`
	Node      *ref   `json:"node,omitempty"`
}

type ref struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
}

// Issue implements api.Tokens. Who asks is in ctx: a node gets tokens that are bound
// to a pod of its own alone.
func (d *Desk) Issue(ctx context.Context, namespace, name string, q *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	q = q.DeepCopy()
	if err := validate(name, q); err != nil {
		return nil, err
	}
	sa, err := api.Get[*corev1.ServiceAccount](ctx, d.c.Objects, api.ServiceAccounts, namespace, name)
	if err != nil {
		return nil, err
	}
	if q.UID != "" && q.UID != sa.UID {
		return nil, apierrors.NewConflict(api.ServiceAccounts.GR(), name, fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", q.UID, sa.UID))
	}
	p := private{Namespace: namespace, Account: ref{sa.Name, sa.UID}}
	if err := d.bind(ctx, access.Of(ctx), namespace, name, q, &p); err != nil {
		return nil, err
	}
	now := d.c.Now()
	expires := now.Add(time.Duration(*q.Spec.ExpirationSeconds) * time.Second)
	token, err := d.sign(claims{Private: p, RegisteredClaims: jwt.RegisteredClaims{
		Issuer: Issuer, Subject: rbac.AccountUser(namespace, name), Audience: q.Spec.Audiences, ID: string(uuid.NewUUID()),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
	}})
	if err != nil {
		return nil, err
	}
	q.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(now)}
	q.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires)}
	return q, nil
}

// validate fills what a request leaves open, and judges it.
func validate(name string, q *authenticationv1.TokenRequest) error {
	if len(q.Spec.Audiences) == 0 {
		q.Spec.Audiences = []string{Issuer}
	}
	if q.Spec.ExpirationSeconds == nil {
		q.Spec.ExpirationSeconds = new(int64(usualLife))
	}
	at := field.NewPath("spec")
	var faults field.ErrorList
	switch s := *q.Spec.ExpirationSeconds; {
	case s < minLife:
		faults = append(faults, field.Invalid(at.Child("expirationSeconds"), s, "may not specify a duration less than 10 minutes"))
	case s > 1<<32:
		faults = append(faults, field.Invalid(at.Child("expirationSeconds"), s, "may not specify a duration larger than 2^32 seconds"))
	case s > maxLife:
		q.Spec.ExpirationSeconds = new(int64(maxLife))
	}
	if b := q.Spec.BoundObjectRef; b != nil {
		if b.Kind != "Pod" && b.Kind != "Secret" || b.APIVersion != "" && b.APIVersion != "v1" {
			faults = append(faults, field.NotSupported(at.Child("boundObjectRef", "kind"), b.APIVersion+" "+b.Kind, []string{"v1 Pod", "v1 Secret"}))
		}
		if b.Name == "" {
			faults = append(faults, field.Required(at.Child("boundObjectRef", "name"), ""))
		}
	}
	if len(faults) > 0 {
		return apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), name, faults)
	}
	return nil
}

// bind finds what a token is to be bound to.
func (d *Desk) bind(ctx context.Context, who access.User, namespace, account string, q *authenticationv1.TokenRequest, p *private) error {
	b, node := q.Spec.BoundObjectRef, who.Node()
	refuse := func(why string) error {
		return apierrors.NewForbidden(api.ServiceAccounts.GR(), account, fmt.Errorf("node %q requested a token %s", node, why))
	}
	if node != "" && (b == nil || b.Kind != "Pod") {
		return refuse("not bound to a pod")
	}
	if b == nil {
		return nil
	}
	if b.Kind == "Secret" {
		s, err := api.Get[*corev1.Secret](ctx, d.c.Objects, api.Secrets, namespace, b.Name)
		if err != nil {
			return err
		}
		p.Secret = &ref{s.Name, s.UID}
		return sameUID(api.Secrets, b, s.UID)
	}
	pod, err := api.Get[*corev1.Pod](ctx, d.c.Objects, api.Pods, namespace, b.Name)
	if err != nil {
		return err
	}
	switch {
	case node != "" && pod.Spec.NodeName != node:
		return refuse("bound to a pod scheduled on a different node")
	case node != "" && b.UID == "":
		return refuse("with a pod binding without a uid")
	case pod.Spec.ServiceAccountName != account:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name", account))
	}
	p.Pod = &ref{pod.Name, pod.UID}
	if pod.Spec.NodeName != "" {
		p.Node = &ref{Name: pod.Spec.NodeName}
		if n, err := api.Get[*corev1.Node](ctx, d.c.Objects, api.Nodes, "", pod.Spec.NodeName); err == nil {
			p.Node.UID = n.UID
		}
	}
	return sameUID(api.Pods, b, pod.UID)
}

func sameUID(r *api.Resource, b *authenticationv1.BoundObjectReference, is types.UID) error {
	if b.UID != "" && b.UID != is {
		return apierrors.NewConflict(r.GR(), b.Name, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record", b.UID))
	}
	b.UID = is
	return nil
}

func (d *Desk) sign(c jwt.Claims) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodES256, c)
	t.Header["kid"] = d.kid
	text, err := t.SignedString(d.c.Key)
	if err != nil {
		return "", fmt.Errorf("sign the token: %w", err)
	}
	return text, nil
}

// User is whom a token for the API server is of. Otherwise the error is Unauthorized.
func (d *Desk) User(ctx context.Context, token string) (access.User, error) {
	u, _, err := d.Review(ctx, token, []string{Issuer})
	return u, err
}

// Review is whom a token is of, and which of some audiences it is for; for none of
// them it does not count.
func (d *Desk) Review(ctx context.Context, token string, audiences []string) (access.User, []string, error) {
	if isLasting(token) {
		return d.reviewLasting(ctx, token, audiences)
	}
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return &d.c.Key.PublicKey, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}), jwt.WithIssuer(Issuer), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(d.c.Now), jwt.WithLeeway(5*time.Second))
	if err != nil {
		return access.User{}, nil, unauthorized("the token: %v", err)
	}
	var meant []string
	for _, a := range audiences {
		if slices.Contains(c.Audience, a) {
			meant = append(meant, a)
		}
	}
	if len(meant) == 0 {
		return access.User{}, nil, unauthorized("the token is for %q, not for %q", []string(c.Audience), audiences)
	}
	if err := d.alive(ctx, &c.Private); err != nil {
		return access.User{}, nil, err
	}
	p := &c.Private
	u := access.User{
		Name: rbac.AccountUser(p.Namespace, p.Account.Name), Groups: access.AccountGroups(p.Namespace), UID: string(p.Account.UID),
		Extra: map[string][]string{"authentication.kubernetes.io/credential-id": {"JTI=" + c.ID}},
	}
	if p.Pod != nil {
		u.Extra["authentication.kubernetes.io/pod-name"], u.Extra["authentication.kubernetes.io/pod-uid"] = []string{p.Pod.Name}, []string{string(p.Pod.UID)}
	}
	if p.Node != nil {
		u.Extra["authentication.kubernetes.io/node-name"], u.Extra["authentication.kubernetes.io/node-uid"] = []string{p.Node.Name}, []string{string(p.Node.UID)}
	}
	return u, meant, nil
}

// alive sees that the account and what a token is bound to are there, and the same
// as when it was made.
func (d *Desk) alive(ctx context.Context, p *private) error {
	for _, b := range []struct {
		r   *api.Resource
		ref *ref
	}{{api.ServiceAccounts, &p.Account}, {api.Pods, p.Pod}, {api.Secrets, p.Secret}} {
		if b.ref == nil {
			continue
		}
		obj, err := d.c.Objects.Get(ctx, b.r, p.Namespace, b.ref.Name)
		switch {
		case apierrors.IsNotFound(err):
			return unauthorized("%s %s/%s, which the token is of, is not there any more", b.r.Singular, p.Namespace, b.ref.Name)
		case err != nil:
			return err
		case obj.GetUID() != b.ref.UID:
			return unauthorized("%s %s/%s is another one than that which the token is of", b.r.Singular, p.Namespace, b.ref.Name)
		}
		if t := obj.GetDeletionTimestamp(); t != nil && d.c.Now().After(t.Add(grace)) {
			return unauthorized("%s %s/%s, which the token is of, has been deleted", b.r.Singular, p.Namespace, b.ref.Name)
		}
	}
	return nil
}

func unauthorized(format string, args ...any) error {
	return apierrors.NewUnauthorized(fmt.Sprintf(format, args...))
}
