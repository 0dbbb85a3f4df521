// Package join is how a machine becomes a node of a cluster: what the joining
// machine and the server say to each other.
package join

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Token is what a machine joins with: whom to trust, and why to be trusted. As
// text it is F1<digest of the CA>::<id>.<secret>.
type Token struct {
	CA     string // SHA-256 of the DER form of the authority's certificate, in hex
	ID     string
	Secret string
}

// NewToken makes a token for the cluster of an authority.
func NewToken(caDER []byte) Token {
	var b [22]byte
	_, _ = rand.Read(b[:]) // never fails
	h := hex.EncodeToString(b[:])
	return Token{CA: Digest(caDER), ID: h[:12], Secret: h[12:]}
}

// Digest is how a token names an authority.
func Digest(der []byte) string {
	h := sha256.Sum256(der)
	return hex.EncodeToString(h[:])
}

var form = regexp.MustCompile(`^F1([0-9a-f]{64})::([0-9a-f]{12})\.([0-9a-f]{32})$`)

// Parse reads a token's text.
func Parse(s string) (Token, error) {
	s = strings.TrimSpace(s)
	m := form.FindStringSubmatch(s)
	switch {
	case m != nil:
		return Token{m[1], m[2], m[3]}, nil
	case s == "":
		return Token{}, errors.New("the token is empty: `faas token create` on a server makes one")
	case !strings.Contains(s, "::"):
		return Token{}, errors.New("the token does not say whom to trust (F1…::): copy the whole line that `faas token create` has printed")
	}
	return Token{}, errors.New("this is no token (F1, 64 letters, ::, 12 letters, a dot, 32 letters): copy the whole line that `faas token create` has printed")
}

func (t Token) String() string { return fmt.Sprintf("F1%s::%s.%s", t.CA, t.ID, t.Secret) }

// Hash is what is stored of a secret.
func (t Token) Hash() string { return Digest([]byte(t.Secret)) }

// Where tokens are stored, in api.SystemNamespace.
const (
	SecretType   = "podsnap.dev/join-token"
	SecretPrefix = "join-token-"
	KeyHash      = "hash"     // of the secret
	KeyExpires   = "expires"  // RFC 3339
	KeyReusable  = "reusable" // "true": for more than one machine
)

// ServerName is what a server's certificate is for, whatever address it is
// reached at; a node's is for NodeName.
const ServerName = "server.podsnap"

// NodeName is the name that a node's certificate is for.
func NodeName(node string) string { return node + ".node.podsnap" }
