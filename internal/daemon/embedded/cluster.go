package embedded

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/etcd/server/v3/embed"
)

// Cluster makes the servers members of those of several machines: what is
// acknowledged is then on the disks of most of them. All start with the same
// Members on empty disks.
type Cluster struct {
	Self     string   // this machine's address, one of Members
	Members  []string // addresses (IP) of all machines, at least three
	EtcdPort int      // at which members reach one another's etcd; 0 is 2380
	NATSPort int      // likewise for NATS; 0 is 6222
	// Cert, Key and CA are PEM files. Between members both sides show a
	// certificate: it must be good for a server and for a client, be signed by CA
	// and have the member's address. They are read for each connection, CA once.
	Cert, Key, CA string
	Secret        string // that all members have
}

func (c *Cluster) etcdPort() int { return cmp.Or(c.EtcdPort, 2380) }
func (c *Cluster) natsPort() int { return cmp.Or(c.NATSPort, 6222) }

// Ports are those that a member takes at its address.
func (c *Cluster) Ports() []int { return []int{c.etcdPort(), c.natsPort()} }

// Validate says what is wrong with it, all at once.
func (c *Cluster) Validate() error {
	var faults []error
	fault := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	if len(c.Members) < 3 {
		fault("a cluster of servers has at least three: with %d, one that is lost stops all", len(c.Members))
	}
	for i, m := range c.Members {
		if a, err := netip.ParseAddr(m); err != nil || a.IsUnspecified() {
			fault("server %q: it must be an IP address", m)
		}
		if slices.Contains(c.Members[:i], m) {
			fault("server %q is named twice", m)
		}
	}
	if !slices.Contains(c.Members, c.Self) {
		fault("this machine's address %q is not among the servers %s", c.Self, strings.Join(c.Members, ", "))
	}
	for what, file := range map[string]string{"certificate": c.Cert, "key": c.Key, "certificate authority": c.CA} {
		if file == "" {
			fault("no file of a %s is named", what)
		}
	}
	if c.Secret == "" {
		fault("the servers have no secret")
	}
	return errors.Join(faults...)
}

// claim lets the data in dir be used by the members that it was begun with,
// and by nobody else. One server's data can't become that of several by
// starting it: NATS would take its streams for forgotten ones and remove them,
// and etcd would go on alone beside the others.
func claim(dir string, c *Cluster) error {
	path := filepath.Join(dir, "members.json")
	b, err := os.ReadFile(path)
	begun := true
	if errors.Is(err, fs.ErrNotExist) {
		begun, err = begunAlone(dir)
	}
	if err != nil {
		return fmt.Errorf("whose data %s holds: %w", dir, err)
	}
	var old struct {
		Self    string
		Members []string
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &old); err != nil {
			return fmt.Errorf("whose data %s holds: %s: %w", dir, path, err)
		}
	}
	now := old
	now.Self, now.Members = "", nil
	if c != nil {
		now.Self, now.Members = c.Self, slices.Sorted(slices.Values(c.Members))
	}
	switch {
	case begun && old.Self == now.Self && slices.Equal(old.Members, now.Members):
		return nil
	case begun && old.Self == "":
		return fmt.Errorf("the data in %s is one server's alone and can't become a cluster's: start without the others, or with an empty folder", dir)
	case begun:
		return fmt.Errorf("the data in %s is that of %s, a member of %s: start with these, or with an empty folder", dir, old.Self, strings.Join(old.Members, ", "))
	case c == nil:
		return nil
	}
	if b, err = json.Marshal(now); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func begunAlone(dir string) (bool, error) {
	for _, d := range []string{"etcd", "nats"} {
		if _, err := os.Stat(filepath.Join(dir, d)); !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
	return false, nil
}

// etcd makes e a member. Its clients stay on the socket.
func (c *Cluster) etcd(e *embed.Config) {
	at := func(member string) string {
		return "https://" + net.JoinHostPort(member, strconv.Itoa(c.etcdPort()))
	}
	own, err := url.Parse(at(c.Self))
	if err != nil {
		panic(err) // Validate has parsed the address
	}
	e.Name = c.Self
	e.ListenPeerUrls, e.AdvertisePeerUrls = []url.URL{*own}, []url.URL{*own}
	all := make([]string, 0, len(c.Members))
	for _, m := range c.Members {
		all = append(all, m+"="+at(m))
	}
	e.InitialCluster = strings.Join(all, ",")
	e.InitialClusterToken = c.Secret
	e.TickMs, e.ElectionMs = 100, 1000
	t := &e.PeerTLSInfo
	t.CertFile, t.KeyFile, t.TrustedCAFile, t.ClientCertAuth = c.Cert, c.Key, c.CA, true
	// The authority may sign others as well, such as the cluster's nodes, so a
	// member shows a member's address. It need not be the one that the connection
	// comes from: a machine may have several.
	t.AllowedHostnames, t.SkipClientSANVerify = c.Members, true
}

// nats makes o a member. Clients of one server are not told about others: each
// platform has its own, on its loopback device.
func (c *Cluster) nats(o *natsserver.Options) error {
	t, err := c.tls()
	if err != nil {
		return err
	}
	o.ServerName = natsName(c.Self)
	o.ReconnectErrorReports = 600 // tries, one a second and route: a server that is away is told of every few minutes
	o.Cluster = natsserver.ClusterOpts{
		Name: "podsnap", Host: c.Self, Port: c.natsPort(), NoAdvertise: true,
		Username: "podsnap", Password: c.Secret, TLSConfig: t,
	}
	for _, m := range c.Members {
		if m != c.Self {
			o.Routes = append(o.Routes, &url.URL{
				Scheme: "nats", User: url.UserPassword("podsnap", c.Secret), Host: net.JoinHostPort(m, strconv.Itoa(c.natsPort())),
			})
		}
	}
	return nil
}

// natsName is what a member is called for as long as its data lives: the others
// keep it as the place of their copies.
func natsName(member string) string { return "podsnap-" + member }

// tls is for both ends of a connection between members.
func (c *Cluster) tls() (*tls.Config, error) {
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", c.CA)
	}
	load := func() (*tls.Certificate, error) { // anew each time: it is renewed
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		return &pair, err
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() },
		VerifyConnection: func(s tls.ConnectionState) error {
			leaf := s.PeerCertificates[0]
			if slices.ContainsFunc(c.Members, func(m string) bool { return leaf.VerifyHostname(m) == nil }) {
				return nil
			}
			return fmt.Errorf("the certificate of %s is no member's", leaf.Subject)
		},
	}, nil
}

// watchLeader says once that NATS waits for the others, if it does, and when it
// no longer has to. The returned function ends it. Nobody is held up: who uses
// the queue tries again.
func watchLeader(s *natsserver.Server, c *Cluster, log *slog.Logger) (stop func()) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		begin, said := time.Now(), false
		for {
			h := s.Healthz(&natsserver.HealthzOptions{JSMetaOnly: true})
			if h.Error == "" {
				log.Info("NATS has a leader", slog.Duration("after", time.Since(begin).Round(time.Millisecond)))
				return
			}
			if !said && time.Since(begin) > time.Second {
				said = true
				log.Info("NATS waits until most of the servers are there and have a leader", slog.String("servers", strings.Join(c.Members, ", ")), slog.String("reason", h.Error))
			}
			select {
			case <-t.C:
			case <-quit:
				return
			}
		}
	})
	return func() { close(quit); wg.Wait() }
}
