package embedded

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/etcd/server/v3/embed"
)

// Cluster makes the servers members of those of several machines: what is
// acknowledged is then on the disks of most of them. Those that begin it start with
// the same Members on empty disks; others come later, one by one.
type Cluster struct {
	Self     string   // this machine's address, one of Members
	Members  []string // addresses (IP) of all machines, at least three to begin with
	NATSName string   // of one that joins, what its NATS is called: see NewNATSName
	Joining  bool     // the cluster was there before this machine: the others have taken it in, with no data
	EtcdPort int      // at which members reach one another's etcd; 0 is 2380
	NATSPort int      // likewise for NATS; 0 is 6222
	// Cert, Key and CA are PEM files. Between members both sides show a
	// certificate: it must be good for a server and for a client, be signed by CA
	// and have the member's address. They are read for each connection, CA once. CA
	// signs nobody but servers: etcd asks no more.
	Cert, Key, CA string
	Secret        string // that all members have

	dir  string // where their list is kept
	name string // of this one's NATS
}

// PeerURL is where members reach the etcd of one of them.
func (c *Cluster) PeerURL(member string) string {
	return "https://" + net.JoinHostPort(member, strconv.Itoa(c.etcdPort()))
}

func (c *Cluster) etcdPort() int { return cmp.Or(c.EtcdPort, 2380) }
func (c *Cluster) natsPort() int { return cmp.Or(c.NATSPort, 6222) }

// Ports are those that a member takes at its address.
func (c *Cluster) Ports() []int { return []int{c.etcdPort(), c.natsPort()} }

// Validate says what is wrong with it, all at once.
func (c *Cluster) Validate() error {
	var faults []error
	fault := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	if len(c.Members) < 3 && !c.Joining {
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

// etcd makes e a member. Its clients stay on the socket.
func (c *Cluster) etcd(e *embed.Config) {
	own, err := url.Parse(c.PeerURL(c.Self))
	if err != nil {
		panic(err) // Validate has parsed the address
	}
	e.Name = c.Self
	e.ListenPeerUrls, e.AdvertisePeerUrls = []url.URL{*own}, []url.URL{*own}
	all := make([]string, 0, len(c.Members))
	for _, m := range c.Members {
		all = append(all, m+"="+c.PeerURL(m))
	}
	e.InitialCluster = strings.Join(all, ",")
	e.InitialClusterToken = c.Secret
	if c.Joining {
		e.ClusterState = embed.ClusterStateFlagExisting
	}
	e.TickMs, e.ElectionMs = 100, 1000
	t := &e.PeerTLSInfo
	t.CertFile, t.KeyFile, t.TrustedCAFile, t.ClientCertAuth = c.Cert, c.Key, c.CA, true
	// A member's address need not be the one that its connection comes from: a machine
	// may have several.
	t.SkipClientSANVerify = true
}

// nats makes o a member. Clients of one server are not told about others: each
// platform has its own, on its loopback device.
func (c *Cluster) nats(o *natsserver.Options) error {
	t, err := c.tls()
	if err != nil {
		return err
	}
	o.ServerName = c.name
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

// NATSName is what a member of the first hour is called for as long as its data
// lives: the others keep it as the place of their copies.
func NATSName(member string) string { return "podsnap-" + member }

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
			now, err := Look(c.dir) // they change
			if err != nil {
				return err
			}
			if slices.ContainsFunc(now.Members, func(m string) bool { return leaf.VerifyHostname(m) == nil }) {
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
