package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// ServerToken makes what the servers of a cluster share: a secret from which all
// others come, and the day from which they count. As text it is S1<day since
// 1970, in hex>.<32 bytes, base64>.
func ServerToken() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return fmt.Sprintf("S1%x.%s", time.Now().Unix()/86400, base64.RawURLEncoding.EncodeToString(b))
}

var serverTokenForm = regexp.MustCompile(`^S1([0-9a-f]{1,8})\.([0-9A-Za-z_-]{43})$`)

// root is a ServerToken that was read.
type root struct {
	secret []byte
	begun  time.Time
}

func parseServerToken(s string) (root, error) {
	m := serverTokenForm.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		if strings.HasPrefix(strings.TrimSpace(s), "F1") {
			return root{}, errors.New("it is a token of `faas token create`, for nodes; servers share one of `faas server token`")
		}
		return root{}, errors.New("it must be what `faas server token` has printed, S1….…")
	}
	day, err := strconv.ParseInt(m[1], 16, 64)
	if err != nil {
		return root{}, err
	}
	secret, err := base64.RawURLEncoding.DecodeString(m[2])
	return root{secret, time.Unix(day*86400, 0).UTC()}, err
}

// secretOf is the secret for a purpose (HKDF, RFC 5869), 32 bytes.
func (r root) secretOf(purpose string) []byte {
	b, err := hkdf.Key(sha256.New, r.secret, nil, "podsnap "+purpose, 32)
	if err != nil {
		panic(err) // 32 bytes are few enough
	}
	return b
}

// key is the key for a purpose.
func (r root) key(purpose string) (key *ecdsa.PrivateKey, err error) {
	for i := 0; ; i++ {
		key, err = ecdsa.ParseRawPrivateKey(elliptic.P256(), r.secretOf(purpose+" "+strconv.Itoa(i)))
		if err == nil || i == 8 { // one in four thousand millions is no key
			return key, err
		}
	}
}

// authority makes a certificate authority, the same to the byte on every server:
// the key comes from the token, and its signature has no chance in it (RFC 6979).
func (r root) authority(purpose string) (der []byte, key *ecdsa.PrivateKey, err error) {
	if key, err = r.key(purpose); err != nil {
		return nil, nil, err
	}
	t := template("podsnap", 0)
	t.SerialNumber = new(big.Int).SetBytes(r.secretOf(purpose + " serial")[:15])
	t.NotBefore, t.NotAfter = r.begun, r.begun.AddDate(30, 0, 0)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err = x509.CreateCertificate(nil, t, t, &key.PublicKey, key)
	return der, key, err
}

// takeToken reads the server token of this state directory, and keeps it there:
// the given one, or one of its own at the first start.
func (c *Config) takeToken() error {
	path := c.path("auth", "server-token")
	b, err := os.ReadFile(path)
	kept := strings.TrimSpace(string(b))
	switch _, old := os.Stat(c.path("auth", "ca.key")); {
	case err == nil && c.ServerToken != "" && kept != strings.TrimSpace(c.ServerToken):
		return fmt.Errorf("--server-token: it is of another cluster than the state directory %s; use the one in its auth/server-token, or another directory", c.StateDir)
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case old == nil && c.ServerToken != "":
		return fmt.Errorf("--server-token: the state directory %s is of a server that has begun without one, and cannot share what it has made up; use another directory", c.StateDir)
	case old == nil:
		return nil // it goes on with what it has, alone
	default:
		if kept = strings.TrimSpace(c.ServerToken); kept == "" {
			kept = ServerToken()
		}
	}
	r, err := parseServerToken(kept)
	if err != nil {
		return fmt.Errorf("--server-token: %w", err)
	}
	c.root = &r
	return writeFile(path, kept+"\n")
}
