package account

import (
	"encoding/base64"

	"github.com/golang-jwt/jwt/v5"
)

// Paths at which others learn how to judge tokens (OpenID Connect Discovery).
const (
	ConfigurationPath = "/.well-known/openid-configuration"
	KeysPath          = "/openid/v1/jwks"
)

// Configuration says who issues tokens, and where the keys are.
type Configuration struct {
	Issuer        string   `json:"issuer"`
	KeysURI       string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
}

// Key is a public key as RFC 7517 has it.
type Key struct {
	Use       string `json:"use"`
	Type      string `json:"kty"`
	ID        string `json:"kid"`
	Curve     string `json:"crv"`
	Algorithm string `json:"alg"`
	X         string `json:"x"`
	Y         string `json:"y"`
}

// Keys are those by which tokens are judged.
type Keys struct {
	Keys []Key `json:"keys"`
}

// Configuration describes the desk.
func (d *Desk) Configuration() Configuration {
	return Configuration{
		Issuer: Issuer, KeysURI: Issuer + KeysPath,
		ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"}, Algorithms: []string{jwt.SigningMethodES256.Alg()},
	}
}

// Keys are the desk's.
func (d *Desk) Keys() (Keys, error) {
	point, err := d.c.Key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		return Keys{}, err
	}
	text := base64.RawURLEncoding.EncodeToString
	half := (len(point) - 1) / 2
	return Keys{Keys: []Key{{
		Use: "sig", Type: "EC", ID: d.kid, Curve: "P-256", Algorithm: jwt.SigningMethodES256.Alg(),
		X: text(point[1 : 1+half]), Y: text(point[1+half:]),
	}}}, nil
}
