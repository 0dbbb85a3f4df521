package admission

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
)

// minCertificateLife is the shortest life that a certificate may be asked for, in
// seconds.
const minCertificateLife = 10 * 60

var keyUsages = []certificatesv1.KeyUsage{
	certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment, certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly, certificatesv1.UsageAny, certificatesv1.UsageServerAuth,
	certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning, certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME,
	certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping,
	certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC,
}

func validateCertificateRequest(c *certificatesv1.CertificateSigningRequest) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if len(c.Spec.Request) == 0 {
		errs = append(errs, field.Required(spec.Child("request"), "a certificate request (PKCS#10) in PEM"))
	} else if _, err := api.ReadRequest(&c.Spec); err != nil {
		errs = append(errs, field.Invalid(spec.Child("request"), "<request>", err.Error()))
	}
	errs = append(errs, validateSigner(c.Spec.SignerName, spec.Child("signerName"))...)
	if len(c.Spec.Usages) == 0 {
		errs = append(errs, field.Required(spec.Child("usages"), "what the certificate is for, such as client auth"))
	}
	for i, u := range c.Spec.Usages {
		at := spec.Child("usages").Index(i)
		errs = append(errs, oneOf(u, at, keyUsages...)...)
		if slices.Contains(c.Spec.Usages[:i], u) {
			errs = append(errs, field.Duplicate(at, u))
		}
	}
	if s := c.Spec.ExpirationSeconds; s != nil && *s < minCertificateLife {
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return errs
}

// validateSigner wants a domain and a path of one signer in it.
func validateSigner(name string, at *field.Path) field.ErrorList {
	domain, path, ok := strings.Cut(name, "/")
	switch {
	case name == "":
		return field.ErrorList{field.Required(at, "the signer, such as "+certificatesv1.KubeAPIServerClientSignerName)}
	case !ok || path == "":
		return field.ErrorList{field.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	case name == "kubernetes.io/legacy-unknown":
		return field.ErrorList{field.Invalid(at, name, "the legacy signerName is not allowed via this API version")}
	}
	msgs := validation.IsFullyQualifiedDomainName(nil, domain)
	var errs field.ErrorList
	for _, m := range msgs {
		errs = append(errs, field.Invalid(at, name, "the domain "+domain+": "+m.Detail))
	}
	for part := range strings.SplitSeq(path, ".") {
		for _, m := range validation.IsDNS1123Subdomain(part) {
			errs = append(errs, field.Invalid(at, name, "the path "+path+": "+m))
		}
	}
	if len(path) > maxSignerPath {
		errs = append(errs, field.TooLong(at, "", maxSignerPath))
	}
	return errs
}

// maxSignerPath is the longest name of a signer behind its domain.
const maxSignerPath = 571

// decisions are the conditions that whoever may approve sets, and nobody takes away.
var decisions = []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied}

// validateRequestStatus holds a status to the former one: approval says whether it comes
// from who decides or from who signs.
func validateRequestStatus(c, old *certificatesv1.CertificateSigningRequest, approval bool) field.ErrorList {
	at := field.NewPath("status", "conditions")
	errs := validateConditions(c.Status.Conditions, at)
	for _, t := range append(slices.Clone(decisions), certificatesv1.CertificateFailed) {
		now, was := api.RequestCondition(c, t), api.RequestCondition(old, t)
		switch {
		case now == nil && was != nil:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not remove a condition of type %q", t)))
		case approval || !slices.Contains(decisions, t):
		case now != nil && was == nil:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not add a condition of type %q: that is what the subresource approval is for", t)))
		case now != nil && !equality.Semantic.DeepEqual(now, was):
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not modify a condition of type %q", t)))
		}
	}
	at = field.NewPath("status", "certificate")
	if bytes.Equal(c.Status.Certificate, old.Status.Certificate) {
		return errs
	}
	if len(old.Status.Certificate) > 0 {
		return append(errs, field.Forbidden(at, "updates may not modify existing certificate content"))
	}
	if err := readCertificates(c.Status.Certificate); err != nil {
		errs = append(errs, field.Invalid(at, "<certificate>", err.Error()))
	}
	return errs
}

func validateConditions(all []certificatesv1.CertificateSigningRequestCondition, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i := range all {
		c, at := &all[i], at.Index(i)
		if c.Type == "" {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		if seen[c.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), c.Type))
		}
		seen[c.Type] = true
		states := []corev1.ConditionStatus{corev1.ConditionTrue}
		if !slices.Contains(decisions, c.Type) && c.Type != certificatesv1.CertificateFailed {
			states = append(states, corev1.ConditionFalse, corev1.ConditionUnknown)
		}
		errs = append(errs, oneOf(c.Status, at.Child("status"), states...)...)
	}
	if seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied] {
		errs = append(errs, field.Invalid(at, certificatesv1.CertificateDenied, "Approved and Denied conditions are mutually exclusive"))
	}
	return errs
}

// readCertificates wants one certificate in PEM at least, and nothing else.
func readCertificates(text []byte) error {
	n := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d: %w", n+1, err)
		}
		n++
	}
	if n == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}
