package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// admin is the way to a cluster's API, with an administrator's credentials.
type admin struct {
	file string // a kubeconfig; "" is the state directory's
	dir  string
}

func (a *admin) flags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&a.file, "kubeconfig", "", "credentials of an administrator (default: those in the state directory of a server)")
	f.StringVar(&a.dir, "state-dir", defaultStateDir(), "state directory of the server on this machine")
}

// kubeconfig is what we need of such a file.
type kubeconfig struct {
	Clusters []struct {
		Cluster struct {
			Server string `json:"server"`
			CA     []byte `json:"certificate-authority-data"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		User struct {
			Token string `json:"token"`
		} `json:"user"`
	} `json:"users"`
}

// open answers with the API and the authority's certificate in its DER form.
func (a *admin) open() (objects *remote.Objects, server string, ca []byte, err error) {
	server, client, token, ca, err := a.credentials()
	if err != nil {
		return nil, "", nil, err
	}
	return remote.NewObjects(remote.Config{URL: server, Token: token, Client: client}), server, ca, nil
}

// client answers with a server's URL and a client that says who it is.
func (a *admin) client() (server string, client *http.Client, err error) {
	server, client, token, _, err := a.credentials()
	if err != nil {
		return "", nil, err
	}
	client.Transport = bearer{client.Transport, token}
	return server, client, nil
}

// bearer sends a token with each request.
type bearer struct {
	http.RoundTripper
	token string
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.RoundTripper.RoundTrip(r)
}

// credentials answers with what the file says, and a client that trusts the cluster.
func (a *admin) credentials() (server string, client *http.Client, token string, ca []byte, err error) {
	path := a.file
	if path == "" {
		path = filepath.Join(a.dir, "kubeconfig")
	}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil, "", nil, fmt.Errorf("%s is not there: run this on a server, or name an administrator's file with --kubeconfig", path)
	case errors.Is(err, fs.ErrPermission):
		return "", nil, "", nil, fmt.Errorf("%s may be read by root only: use sudo", path)
	case err != nil:
		return "", nil, "", nil, err
	}
	var k kubeconfig
	if err := yaml.Unmarshal(b, &k); err != nil || len(k.Clusters) == 0 || len(k.Users) == 0 {
		return "", nil, "", nil, fmt.Errorf("%s is no kubeconfig with a cluster and a user", path)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(k.Clusters[0].Cluster.CA) {
		return "", nil, "", nil, fmt.Errorf("%s holds no certificate of an authority", path)
	}
	certs, err := certificates(k.Clusters[0].Cluster.CA)
	if err != nil {
		return "", nil, "", nil, fmt.Errorf("%s: %w", path, err)
	}
	server = k.Clusters[0].Cluster.Server
	client = &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: join.ServerName},
		ForceAttemptHTTP2: true, ResponseHeaderTimeout: 30 * time.Second,
	}}
	return server, client, k.Users[0].User.Token, certs[0].Raw, nil
}

// begin is open for a command that is bounded in time, as limit says; the caller
// cancels the context.
func (a *admin) begin(cmd *cobra.Command, limit func(context.Context) (context.Context, context.CancelFunc)) (*remote.Objects, context.Context, context.CancelFunc, error) {
	objects, _, _, err := a.open()
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := limit(cmd.Context())
	return objects, ctx, cancel, nil
}
