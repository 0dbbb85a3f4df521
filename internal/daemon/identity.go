package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/internal/join"
)

// identity is what a node is towards the servers: a key and a certificate, which
// is renewed while the node runs.
type identity struct {
	c        *Config
	log      *slog.Logger
	url      string // of the server
	ca       []byte // PEM
	settings join.Settings
	pair     atomic.Pointer[tls.Certificate]
	client   *http.Client
	doors    *doors
	servers  *acquaintance

	mu    sync.Mutex // of the file
	state cluster
}

// cluster is what a node keeps of the cluster that it has joined.
type cluster struct {
	Server   string        `json:"server"`
	Servers  []string      `json:"servers,omitempty"` // all that it knows of, https://host:port
	Settings join.Settings `json:"settings"`
}

// joinTries bounds how long a machine waits for a server that does not answer.
const joinTries = 2 * time.Minute

// joinCluster makes this machine a node, unless it is one, and fills in what the
// server says about it.
func (p *platform) joinCluster(ctx context.Context) (*identity, error) {
	server, err := serverURL(p.c.Join)
	if err != nil {
		return nil, err
	}
	me := &identity{c: &p.c, log: p.log, url: server}
	known, err := me.load()
	if err != nil {
		return nil, err
	}
	if !known {
		if err := me.enter(ctx); err != nil {
			return nil, err
		}
	}
	if p.c.NodeIP == "" {
		if p.c.NodeIP, err = addressTowards(ctx, server); err != nil {
			return nil, err
		}
	}
	p.c.PodCIDR, p.c.ClusterCIDR, p.c.ServiceCIDR = me.settings.PodCIDR, me.settings.ClusterCIDR, me.settings.ServiceCIDR
	me.connect()
	return me, me.servers.ask(ctx, me.client, me.url)
}

// load reads what a former start has left; false when this is the first one.
func (m *identity) load() (bool, error) {
	b, err := os.ReadFile(m.c.path("auth", "cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var cl cluster
	if err := json.Unmarshal(b, &cl); err != nil {
		return false, fmt.Errorf("auth/cluster.json in %s: %w", m.c.StateDir, err)
	}
	if m.ca, err = os.ReadFile(m.c.path("auth", "ca.crt")); err != nil {
		return false, err
	}
	pair, err := tls.LoadX509KeyPair(m.c.path("auth", "node.crt"), m.c.path("auth", "node.key"))
	if err != nil {
		return false, err
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		m.log.Warn("this node's certificate has expired: it joins anew", slog.Time("at", pair.Leaf.NotAfter))
		return false, nil
	}
	m.pair.Store(&pair)
	m.settings, m.state = cl.Settings, cl
	return true, nil
}

// enter joins, and keeps what it gets.
func (m *identity) enter(ctx context.Context) error {
	if m.c.Token == "" {
		return errNotJoined
	}
	token, err := join.Parse(m.c.Token)
	if err != nil {
		return fmt.Errorf("--token: %w", err)
	}
	key, csr, err := join.NewKey()
	if err != nil {
		return err
	}
	a, err := join.Patiently(ctx, joinTries, m.log.With(slog.String("server", m.url)), func(ctx context.Context) (join.Answer, error) {
		return join.Join(ctx, m.url, token, m.c.Version, m.c.NodeName, csr)
	})
	if err != nil {
		return fmt.Errorf("join %s: %w", m.url, err)
	}
	if err := m.keepPair(key, a); err != nil {
		return err
	}
	m.log.Info("joined", slog.String("server", m.url), slog.String("node", m.c.NodeName), slog.String("pods", a.Settings.PodCIDR))
	return nil
}

// keepPair stores a certificate and takes it into use.
func (m *identity) keepPair(key []byte, a join.Answer) error {
	pair, err := tls.X509KeyPair(a.Certificate, key)
	if err != nil {
		return fmt.Errorf("the server's answer: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Server, m.state.Settings = m.url, a.Settings
	state, err := json.Marshal(m.state)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{"node.key", key}, {"node.crt", a.Certificate}, {"ca.crt", a.CA}, {"cluster.json", state}} {
		if err := writeFile(m.c.path("auth", f.name), string(f.content)); err != nil {
			return err
		}
	}
	m.ca, m.settings = a.CA, a.Settings
	m.pair.Store(&pair)
	return nil
}

// keepServers stores where the servers are.
func (m *identity) keepServers(addrs []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Servers = nil
	for _, a := range addrs {
		m.state.Servers = append(m.state.Servers, "https://"+a)
	}
	b, err := json.Marshal(m.state)
	if err == nil {
		err = writeFile(m.c.path("auth", "cluster.json"), string(b))
	}
	if err != nil {
		m.log.Warn("where the servers are is not kept for the next start", slog.Any("error", err))
	}
}

// connect makes the client for everything that is asked of the server. A
// connection of which nothing is heard any more is given up within seconds, so
// that watches do not wait for a server that is gone.
func (m *identity) connect() {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(m.ca)
	m.newDoors(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: join.ServerName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.pair.Load(), nil },
	}, m.state.Servers)
}

// keep renews the certificate when two thirds of its life are over.
func (m *identity) keep(ctx context.Context) error {
	for {
		leaf := m.pair.Load().Leaf
		due := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(time.Until(due), time.Second)):
		}
		if err := m.renew(ctx); err != nil && ctx.Err() == nil {
			m.log.Warn("this node's certificate could not be renewed; it is tried again", slog.Time("expires", leaf.NotAfter), slog.Any("error", err))
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Minute):
			}
		}
	}
}

func (m *identity) renew(ctx context.Context) error {
	key, csr, err := join.NewKey()
	if err != nil {
		return err
	}
	a, err := join.Renew(ctx, m.client, m.url, csr)
	if err != nil {
		return err
	}
	if err := m.keepPair(key, a); err != nil {
		return err
	}
	m.client.CloseIdleConnections() // those with the former one
	m.log.Info("this node's certificate was renewed", slog.Time("expires", m.pair.Load().Leaf.NotAfter))
	return nil
}
