package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/internal/join"
)

// certificate answers with the API's certificate and the CA that clients trust
// it by (PEM). Both are made at the first start; the certificate is made anew
// when its hosts have changed or less than a month of it is left.
func (c *Config) certificate() (tls.Certificate, []byte, error) {
	ca, caKey, caPEM, err := c.authority()
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("certificate authority: %w", err)
	}
	host, _, err := net.SplitHostPort(reach(c.APIListen))
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	crt, key := c.path("auth", "api.crt"), c.path("auth", "api.key")
	if pair, err := tls.LoadX509KeyPair(crt, key); err == nil {
		named := !slices.ContainsFunc(localAddresses(c.APIListen), func(ip net.IP) bool { return pair.Leaf.VerifyHostname(ip.String()) != nil })
		named = named && !slices.ContainsFunc(c.apiNames(), func(n string) bool { return pair.Leaf.VerifyHostname(n) != nil })
		if named && pair.Leaf.VerifyHostname(host) == nil && pair.Leaf.VerifyHostname(join.ServerName) == nil &&
			pair.Leaf.CheckSignatureFrom(ca) == nil && time.Until(pair.Leaf.NotAfter) > 30*24*time.Hour {
			pair.Certificate = append(pair.Certificate, ca.Raw) // a machine that joins knows its digest only
			return pair, caPEM, nil
		}
	}
	t := template("podsnap API", 365*24*time.Hour)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	t.DNSNames = []string{"localhost", c.NodeName, join.ServerName}
	t.IPAddresses = append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, localAddresses(c.APIListen)...)
	for _, n := range c.apiNames() {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	if ip := net.ParseIP(host); ip != nil {
		t.IPAddresses = append(t.IPAddresses, ip)
	} else {
		t.DNSNames = append(t.DNSNames, host)
	}
	if err := issue(t, ca, caKey, crt, key); err != nil {
		return tls.Certificate{}, nil, err
	}
	pair, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pair.Certificate = append(pair.Certificate, ca.Raw)
	return pair, caPEM, nil
}

// control is the certificate with which a server asks nodes and other servers, and
// its own agent answers these. It is made at each
// start: its key is nowhere else.
func (c *Config) control() (tls.Certificate, error) {
	ca, caKey, _, err := c.authority()
	if err != nil {
		return tls.Certificate{}, err
	}
	t := template("system:server", 365*24*time.Hour)
	t.Subject.Organization = []string{access.Masters}
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	t.DNSNames = []string{join.NodeName(c.NodeName)} // as the node that a server is, it is asked by the others
	crt, key := c.path("auth", "control.crt"), c.path("auth", "control.key")
	if err := issue(t, ca, caKey, crt, key); err != nil {
		return tls.Certificate{}, err
	}
	return tls.LoadX509KeyPair(crt, key)
}

func (c *Config) authority() (*x509.Certificate, *ecdsa.PrivateKey, []byte, error) {
	crt, key := c.path("auth", "ca.crt"), c.path("auth", "ca.key")
	pair, err := tls.LoadX509KeyPair(crt, key)
	if errors.Is(err, fs.ErrNotExist) {
		if err := c.newAuthority(crt, key); err != nil {
			return nil, nil, nil, err
		}
		pair, err = tls.LoadX509KeyPair(crt, key)
		if err != nil {
			return nil, nil, nil, err
		}
	} else if err != nil {
		return nil, nil, nil, err
	}
	k, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, nil, fmt.Errorf("%s holds no ECDSA key", key)
	}
	b, err := os.ReadFile(crt)
	return pair.Leaf, k, b, err
}

// tokenKey signs the tokens of service accounts. It is made at the first start, or
// comes from what the servers share: a token of one counts at all.
func (c *Config) tokenKey() (*ecdsa.PrivateKey, error) {
	path := c.path("auth", "service-account.key")
	b, err := os.ReadFile(path)
	if err == nil {
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, fmt.Errorf("%s holds no key", path)
		}
		return x509.ParseECPrivateKey(block.Bytes)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var k *ecdsa.PrivateKey
	if c.root != nil {
		k, err = c.root.key("service accounts")
	} else {
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, err
	}
	return k, writeFile(path, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})))
}

// newAuthority makes this server's own, or the one that it has in common with
// others.
func (c *Config) newAuthority(crt, key string) error {
	if c.root != nil {
		der, k, err := c.root.authority("authority")
		if err != nil {
			return err
		}
		return keep(der, k, crt, key)
	}
	t := template("podsnap", 10*365*24*time.Hour)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	return issue(t, t, nil, crt, key)
}

// storeCertificates makes what the stores of several servers show one another.
// Their authority is not the nodes': a node is no member.
func (c *Config) storeCertificates() error {
	der, k, err := c.root.authority("stores' authority")
	if err != nil {
		return err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	m := c.member()
	if err := writeFile(m.CA, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))); err != nil {
		return err
	}
	t := template("podsnap store", 10*365*24*time.Hour) // made anew at each start
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	t.IPAddresses = []net.IP{net.ParseIP(m.Self)}
	return issue(t, ca, k, m.Cert, m.Key)
}

func template(name string, life time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // never fails
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-5 * time.Minute), NotAfter: now.Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

// issue makes a key and a certificate for it, signed by parentKey (nil: by
// itself), and writes both.
func issue(t, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, crt, key string) error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if parentKey == nil {
		parentKey = k
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &k.PublicKey, parentKey)
	if err != nil {
		return err
	}
	return keep(der, k, crt, key)
}

// keep writes a certificate and its key as PEM.
func keep(der []byte, k *ecdsa.PrivateKey, crt, key string) error {
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return err
	}
	crtPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
	if err := writeFile(key, string(keyPEM)); err != nil {
		return err
	}
	return writeFile(crt, string(crtPEM))
}

// etcdTLS is how an external etcd is reached; nil: without TLS, or as the machine
// trusts.
func (c *Config) etcdTLS() (*tls.Config, error) {
	if c.EtcdCA == "" && c.EtcdCert == "" && c.EtcdKey == "" {
		return nil, nil //nolint:nilnil // see above
	}
	if slices.ContainsFunc(c.Etcd, func(e string) bool { return !strings.HasPrefix(e, "https://") }) || len(c.Etcd) == 0 {
		return nil, errors.New("--etcd-ca, --etcd-cert and --etcd-key are for an external etcd over TLS: its --etcd endpoints begin with https://")
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.EtcdCA != "" {
		b, err := os.ReadFile(c.EtcdCA)
		if err != nil {
			return nil, fmt.Errorf("--etcd-ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("--etcd-ca: %s holds no certificate", c.EtcdCA)
		}
	}
	if (c.EtcdCert == "") != (c.EtcdKey == "") {
		return nil, errors.New("--etcd-cert and --etcd-key belong together: give both")
	}
	if c.EtcdCert != "" {
		pair, err := tls.LoadX509KeyPair(c.EtcdCert, c.EtcdKey)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cert, --etcd-key: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
