package api

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// Tokens hands out tokens of service accounts. Safe for concurrent use.
type Tokens interface {
	// Issue makes a token of an account and answers with the request and, in its
	// status, the token. Errors: Invalid, NotFound for an account or what the token
	// is to be bound to, Conflict when that has another UID, Forbidden for a node
	// that asks for more than its pods' tokens, ServiceUnavailable.
	Issue(ctx context.Context, namespace, account string, q *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
}
