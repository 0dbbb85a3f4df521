package api

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// CertificateSigningRequests are asked for by whoever wants a certificate, approved or
// denied by others, and then signed.
var CertificateSigningRequests = &Resource{
	Group: certificatesv1.GroupName, Version: "v1", Kind: "CertificateSigningRequest", Plural: "certificatesigningrequests", Singular: "certificatesigningrequest", Short: []string{"csr"}, Status: true,
	New: func() Object { return &certificatesv1.CertificateSigningRequest{} }, NewList: func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },
}

// Signers is what the right to approve requests, and to sign them, is given for, by
// the signers' names. There are no objects of it.
var Signers = &Resource{Group: certificatesv1.GroupName, Version: "v1", Plural: "signers"}

// Approval is the subresource of CertificateSigningRequests by which they are approved
// and denied.
const Approval = "approval"

// RequestCondition is a request's condition of a type, nil when it has none.
func RequestCondition(c *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for i := range c.Status.Conditions {
		if c.Status.Conditions[i].Type == t {
			return &c.Status.Conditions[i]
		}
	}
	return nil
}

// ReadRequest is the request in a CertificateSigningRequest, which its own key has
// signed.
func ReadRequest(spec *certificatesv1.CertificateSigningRequestSpec) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("must be a PEM block of the type CERTIFICATE REQUEST")
	}
	q, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("is no certificate request: %w", err)
	}
	if err := q.CheckSignature(); err != nil {
		return nil, fmt.Errorf("is not signed by its own key: %w", err)
	}
	return q, nil
}
