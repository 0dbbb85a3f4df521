package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/podsnap/podsnap/api"
)

// Tokens is an api.Tokens in another process.
type Tokens struct{ c *client }

var _ api.Tokens = (*Tokens)(nil)

// NewTokens makes one.
func NewTokens(cfg Config) *Tokens { return &Tokens{newClient(cfg)} }

// Issue implements api.Tokens.
func (t *Tokens) Issue(ctx context.Context, namespace, account string, q *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	q = q.DeepCopy()
	q.SetGroupVersionKind(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"))
	b, err := t.c.call(ctx, request{method: http.MethodPost, path: path(api.ServiceAccounts, namespace, account, false) + "/token"}, q)
	if err != nil {
		return nil, err
	}
	out := &authenticationv1.TokenRequest{}
	if err := json.Unmarshal(b, out); err != nil {
		return nil, fmt.Errorf("decode the token: %w", err)
	}
	return out, nil
}
