package account

import (
	"context"
	"crypto/subtle"
	"slices"

	"github.com/golang-jwt/jwt/v5"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/rbac"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// LastingIssuer is who signs the tokens that stand in Secrets, as Kubernetes calls it.
const LastingIssuer = "kubernetes/serviceaccount"

// lasting is what a token in a Secret says. It has no end: it counts as long as it
// stands in the Secret, and the account is there.
type lasting struct {
	jwt.RegisteredClaims
	Namespace string    `json:"kubernetes.io/serviceaccount/namespace"`
	Secret    string    `json:"kubernetes.io/serviceaccount/secret.name"`
	Account   string    `json:"kubernetes.io/serviceaccount/service-account.name"`
	UID       types.UID `json:"kubernetes.io/serviceaccount/service-account.uid"`
}

// Lasting is the token of an account for a Secret of the type
// kubernetes.io/service-account-token.
func (d *Desk) Lasting(s *corev1.Secret, of *corev1.ServiceAccount) (string, error) {
	return d.sign(lasting{
		RegisteredClaims: jwt.RegisteredClaims{Issuer: LastingIssuer, Subject: rbac.AccountUser(s.Namespace, of.Name)},
		Namespace:        s.Namespace, Secret: s.Name, Account: of.Name, UID: of.UID,
	})
}

// isLasting tells by whom a token says to be, which proves nothing yet.
func isLasting(token string) bool {
	var c jwt.RegisteredClaims
	_, _, err := jwt.NewParser().ParseUnverified(token, &c)
	return err == nil && c.Issuer == LastingIssuer
}

// reviewLasting is Review for such a token. It is for the API server.
func (d *Desk) reviewLasting(ctx context.Context, token string, audiences []string) (access.User, []string, error) {
	var c lasting
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return &d.c.Key.PublicKey, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}), jwt.WithIssuer(LastingIssuer), jwt.WithTimeFunc(d.c.Now))
	if err != nil {
		return access.User{}, nil, unauthorized("the token: %v", err)
	}
	if !slices.Contains(audiences, Issuer) {
		return access.User{}, nil, unauthorized("the token is for %q, not for %q", Issuer, audiences)
	}
	s, err := api.Get[*corev1.Secret](ctx, d.c.Objects, api.Secrets, c.Namespace, c.Secret)
	switch {
	case apierrors.IsNotFound(err):
		return access.User{}, nil, unauthorized("secret %s/%s, in which the token was, is not there any more", c.Namespace, c.Secret)
	case err != nil:
		return access.User{}, nil, err
	case s.DeletionTimestamp != nil, subtle.ConstantTimeCompare(s.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1:
		return access.User{}, nil, unauthorized("secret %s/%s has another token, or is being deleted", c.Namespace, c.Secret)
	}
	if err := d.alive(ctx, &private{Namespace: c.Namespace, Account: ref{c.Account, c.UID}}); err != nil {
		return access.User{}, nil, err
	}
	u := access.User{Name: rbac.AccountUser(c.Namespace, c.Account), Groups: access.AccountGroups(c.Namespace), UID: string(c.UID)}
	return u, []string{Issuer}, nil
}
