package certificate

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/access"
	certificatesv1 "k8s.io/api/certificates/v1"
)

// How long requests stay, as in Kubernetes.
const (
	undecided = 24 * time.Hour
	settled   = time.Hour // since it was denied, has failed or was approved
)

// longest is the life of a certificate that asks for none, and of those that ask for
// more: they cannot be taken back.
const longest = 365 * 24 * time.Hour

// toSign tells whether a request waits for a certificate of ours.
func toSign(q *certificatesv1.CertificateSigningRequest) bool {
	return q.Spec.SignerName == certificatesv1.KubeAPIServerClientSignerName && len(q.Status.Certificate) == 0 &&
		api.RequestCondition(q, certificatesv1.CertificateApproved) != nil && api.RequestCondition(q, certificatesv1.CertificateDenied) == nil && api.RequestCondition(q, certificatesv1.CertificateFailed) == nil
}

// acceptable says why a request gets no certificate of a client of the API.
func acceptable(q *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if q.Subject.CommonName == "" {
		return errors.New("the request has no common name, which is the name of the user")
	}
	if slices.Contains(q.Subject.Organization, access.Masters) {
		return fmt.Errorf("the group %s may not be asked for", access.Masters)
	}
	if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
		return fmt.Errorf("the usages must have %q", certificatesv1.UsageClientAuth)
	}
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		default:
			return fmt.Errorf("the usage %q is not one of %q, %q and %q", u, certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment)
		}
	}
	return nil
}

func life(q *certificatesv1.CertificateSigningRequest) time.Duration {
	if s := q.Spec.ExpirationSeconds; s != nil {
		return min(time.Duration(*s)*time.Second, longest)
	}
	return longest
}

// until is when nobody needs a request any more.
func until(q *certificatesv1.CertificateSigningRequest) time.Time {
	var end time.Time
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		c := api.RequestCondition(q, t)
		if c == nil {
			continue
		}
		since := c.LastUpdateTime
		if since.IsZero() {
			since = q.CreationTimestamp
		}
		if e := since.Add(settled); end.IsZero() || e.Before(end) {
			end = e
		}
	}
	if end.IsZero() {
		end = q.CreationTimestamp.Add(undecided)
	}
	if block, _ := pem.Decode(q.Status.Certificate); block != nil {
		if crt, err := x509.ParseCertificate(block.Bytes); err == nil && crt.NotAfter.Before(end) {
			end = crt.NotAfter
		}
	}
	return end
}
