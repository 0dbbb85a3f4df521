package access

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/api"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// signing says who asks for a certificate, and lets those decide and sign alone who may
// do so for the signer.
func (g *Gate) signing(ctx context.Context, u User, r *api.Resource, old, obj api.Object, subresource string) error {
	c, ok := obj.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return nil
	}
	if old == nil {
		requestedBy(c, u)
		return noMasters(r, c)
	}
	was := old.(*certificatesv1.CertificateSigningRequest)
	if equality.Semantic.DeepEqual(c.Status, was.Status) {
		return nil
	}
	stamp(c, was)
	verb := "sign"
	if subresource == api.Approval {
		verb = "approve"
	}
	domain, _, _ := strings.Cut(c.Spec.SignerName, "/")
	for _, name := range []string{c.Spec.SignerName, domain + "/*"} {
		if _, ok, err := g.Decide(ctx, u, Request{Verb: verb, Resource: api.Signers, Name: name}); ok || err != nil {
			return err
		}
	}
	return apierrors.NewForbidden(r.GR(), c.Name, fmt.Errorf("user not permitted to %s requests with signerName %q", verb, c.Spec.SignerName))
}

func requestedBy(c *certificatesv1.CertificateSigningRequest, u User) {
	c.Spec.Username, c.Spec.UID, c.Spec.Groups, c.Spec.Extra = u.Name, u.UID, slices.Clone(u.Groups), nil
	for k, v := range u.Extra {
		if c.Spec.Extra == nil {
			c.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		c.Spec.Extra[k] = slices.Clone(v)
	}
}

// noMasters keeps from being asked for what whoever may approve would else give himself.
func noMasters(r *api.Resource, c *certificatesv1.CertificateSigningRequest) error {
	if c.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	q, err := api.ReadRequest(&c.Spec)
	if err == nil && slices.Contains(q.Subject.Organization, Masters) {
		return apierrors.NewForbidden(r.GR(), c.Name, fmt.Errorf("use of %s signer with %s group is not allowed", c.Spec.SignerName, Masters))
	}
	return nil // what is no request is refused as that
}

// stamp says since when the conditions are what they are, where who writes does not.
func stamp(c, was *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now().Rfc3339Copy()
	for i := range c.Status.Conditions {
		cond := &c.Status.Conditions[i]
		if cond.LastUpdateTime.IsZero() {
			cond.LastUpdateTime = now
		}
		if cond.LastTransitionTime.IsZero() {
			cond.LastTransitionTime = now
			for _, old := range was.Status.Conditions {
				if old.Type == cond.Type && old.Status == cond.Status && !old.LastTransitionTime.IsZero() {
					cond.LastTransitionTime = old.LastTransitionTime
				}
			}
		}
	}
}
