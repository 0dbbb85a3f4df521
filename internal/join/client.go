package join

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/podsnap/podsnap/internal/skew"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Request asks for a certificate: to join, with a token, or to renew one.
type Request struct {
	Token string `json:"token,omitempty"` // <id>.<secret>
	Node  string `json:"node,omitempty"`
	CSR   []byte `json:"csr"` // PEM; of what it says only the key counts
}

// Answer is a certificate, and what the cluster is like.
type Answer struct {
	Certificate []byte   `json:"certificate"` // PEM
	CA          []byte   `json:"ca"`          // PEM
	Settings    Settings `json:"settings"`
}

// Settings are what every node has to know.
type Settings struct {
	// Each is a network of IPv4, or one and a network of IPv6 behind a comma.
	PodCIDR     string `json:"podCIDR"` // of this node
	ClusterCIDR string `json:"clusterCIDR"`
	ServiceCIDR string `json:"serviceCIDR"`
}

// Servers are where a cluster's servers are reached, https://host:port; none when
// there is only the one that is known.
type Servers struct {
	Servers []string `json:"servers"`
	Leader  string   `json:"leader,omitempty"` // the name of the one that leads
}

// AskServers asks for them.
func AskServers(ctx context.Context, client *http.Client, url string) (Servers, error) {
	var s Servers
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/podsnap/v1/servers", http.NoBody)
	if err != nil {
		return s, err
	}
	err = do(client, req, &s)
	return s, err
}

// NewKey makes a key and a certificate request for it, both PEM.
func NewKey() (key, csr []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "node"}}, k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// pinned trusts a server whose chain ends at the authority of a digest.
func pinned(digest string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: ServerName,
		InsecureSkipVerify: true, //nolint:gosec // what follows is stricter: the authority is not known yet, only its digest
		VerifyConnection: func(cs tls.ConnectionState) error {
			roots := x509.NewCertPool()
			found := false
			for _, c := range cs.PeerCertificates {
				if c.IsCA && Digest(c.Raw) == digest {
					roots.AddCert(c)
					found = true
				}
			}
			if !found {
				return errors.New("the server is not of the cluster that the token is for: nothing was sent to it")
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: ServerName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			return err
		},
	}
}

// Join asks the server at url, https://host:port, to take a machine in. It sends
// the token's secret to nobody but a server of the token's cluster. release is what
// the machine runs.
func Join(ctx context.Context, url string, t Token, release, node string, csr []byte) (Answer, error) {
	tr := &http.Transport{TLSClientConfig: pinned(t.CA), DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	return ask(ctx, &http.Client{Transport: skew.Say(skew.Node, release, tr), Timeout: 30 * time.Second}, url+"/podsnap/v1/join", Request{Token: t.ID + "." + t.Secret, Node: node, CSR: csr})
}

// Renew asks for another certificate with the one that client has.
func Renew(ctx context.Context, client *http.Client, url string, csr []byte) (Answer, error) {
	return ask(ctx, client, url+"/podsnap/v1/renew", Request{CSR: csr})
}

// maxAnswer bounds what is read, in bytes.
const maxAnswer = 1 << 20

func ask(ctx context.Context, client *http.Client, url string, r Request) (Answer, error) {
	var a Answer
	b, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(b))
	if err != nil {
		return a, err
	}
	req.Header.Set("Content-Type", "application/json")
	err = do(client, req, &a)
	return a, err
}

// do reads a server's answer into out.
func do(client *http.Client, req *http.Request, out any) error {
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var st metav1.Status
		if json.Unmarshal(b, &st) == nil && st.Message != "" {
			r := &Refused{Code: resp.StatusCode, Reason: st.Message}
			if st.Details != nil {
				r.After = time.Duration(st.Details.RetryAfterSeconds) * time.Second
			}
			return r
		}
		return &Refused{Code: resp.StatusCode, Reason: strings.TrimSpace(string(b))}
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// Refused is a server's no.
type Refused struct {
	Code   int
	Reason string
	After  time.Duration // after which it may be asked again; 0: it does not say
}

func (r *Refused) Error() string { return "the server refuses: " + r.Reason }
