package apiserver

import (
	"time"

	"github.com/podsnap/podsnap/api"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

func requestColumns(name, since column) []column {
	return []column{
		name, since,
		col("SignerName", "string", func(c *certificatesv1.CertificateSigningRequest) any { return c.Spec.SignerName }),
		col("Requestor", "string", func(c *certificatesv1.CertificateSigningRequest) any { return c.Spec.Username }),
		col("RequestedDuration", "string", func(c *certificatesv1.CertificateSigningRequest) any {
			if c.Spec.ExpirationSeconds == nil {
				return "<none>"
			}
			return duration.HumanDuration(time.Duration(*c.Spec.ExpirationSeconds) * time.Second)
		}),
		col("Condition", "string", requestCondition),
	}
}

// requestCondition is what was decided of a signing request, and what became of it.
func requestCondition(c *certificatesv1.CertificateSigningRequest) any {
	is := func(t certificatesv1.RequestConditionType) bool { return api.RequestCondition(c, t) != nil }
	out := "Pending"
	switch {
	case is(certificatesv1.CertificateDenied):
		out = "Denied"
	case is(certificatesv1.CertificateApproved):
		out = "Approved"
	}
	if is(certificatesv1.CertificateFailed) {
		out += ",Failed"
	}
	if len(c.Status.Certificate) > 0 {
		out += ",Issued"
	}
	return out
}
