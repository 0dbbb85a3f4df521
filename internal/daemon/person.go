package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/enroll"
	"sigs.k8s.io/yaml"
)

// Person is who gets credentials for the API.
type Person struct {
	Name      string
	Groups    []string
	Namespace string        // that kubectl works in; "" is default
	Life      time.Duration // of the credentials
	Server    string        // https://host:port; "" is where this machine reaches its own
}

// longestLife is of a person's credentials: they cannot be taken back.
const longestLife = 366 * 24 * time.Hour

// Kubeconfig signs a certificate for a person by the authority of a state directory,
// and answers with a kubeconfig that holds it. What the person may do roles say.
func Kubeconfig(c Config, who Person) (string, error) {
	if err := who.Validate(); err != nil {
		return "", err
	}
	if err := c.fill(); err != nil {
		return "", err
	}
	switch _, err := os.Stat(c.path("auth", "ca.key")); {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%s holds no authority: run this on a server, with its --state-dir", c.StateDir)
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("%s may be read by root only: use sudo", c.StateDir)
	case err != nil:
		return "", err
	}
	ca, caKey, caPEM, err := c.authority()
	if err != nil {
		return "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	crt, err := enroll.Authority{Certificate: ca, Key: caKey}.Client(who.Name, who.Groups, &key.PublicKey, who.Life)
	if err != nil {
		return "", err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", err
	}
	if who.Server == "" {
		if who.Server, err = c.ownServer(); err != nil {
			return "", err
		}
	}
	if who.Namespace == "" {
		who.Namespace = "default"
	}
	return kubeconfigOf(who.Server, caPEM, who.Name, who.Namespace, map[string]any{
		"client-certificate-data": crt,
		"client-key-data":         pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}),
	}), nil
}

// ownServer is where the administrator's kubeconfig finds the API.
func (c *Config) ownServer() (string, error) {
	b, err := os.ReadFile(c.path("kubeconfig"))
	if err != nil {
		return "", err
	}
	var k struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
			} `json:"cluster"`
		} `json:"clusters"`
	}
	if err := yaml.Unmarshal(b, &k); err != nil || len(k.Clusters) == 0 {
		return "", fmt.Errorf("%s is no kubeconfig with a cluster", c.path("kubeconfig"))
	}
	return k.Clusters[0].Cluster.Server, nil
}

// Validate keeps to people what is theirs: names of the system are the platform's to
// give, but for the group of the administrators.
func (p Person) Validate() error {
	odd := func(s string) bool { return strings.TrimSpace(s) != s || strings.ContainsFunc(s, unicode.IsControl) }
	switch {
	case p.Name == "":
		return errors.New("--user is missing: it is the name that roles are bound to")
	case odd(p.Name), len(p.Name) > 64:
		return fmt.Errorf("--user %q: it must be at most 64 characters, without control characters or spaces around it", p.Name)
	case strings.HasPrefix(p.Name, "system:"):
		return fmt.Errorf("--user %q: names that begin with system: are the platform's own", p.Name)
	case p.Life <= 0 || p.Life > longestLife:
		return fmt.Errorf("--ttl %s: it must be more than nothing and at most a year", p.Life)
	}
	for _, g := range p.Groups {
		if g == "" || odd(g) || strings.HasPrefix(g, "system:") && g != access.Masters {
			return fmt.Errorf("--group %q: it must be a name that does not begin with system:, or %s, which may do everything", g, access.Masters)
		}
	}
	return nil
}
