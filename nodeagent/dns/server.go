// Package dns is the name server of one node's pods: it knows the names of
// Services and their endpoints (zone.go) and asks the machine's own servers for
// everything else (forward.go, cache.go).
//
// The names are Kubernetes': a Service has its cluster address, a headless one
// the addresses of its endpoints, a function that of the gateway, so that a call
// from inside the cluster wakes it and is counted.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/podsnap/podsnap/api"
	"github.com/prometheus/client_golang/prometheus"
)

// Config says what to serve. Objects and Listen are needed.
type Config struct {
	Objects api.Objects
	Listen  netip.AddrPort // an address that the node has; port 0 is any
	// Gateway is where the names of functions lead. With the zero one they lead
	// where their Service does, which by itself has no address.
	Gateway netip.Addr
	Domain  string // of the cluster; "" is cluster.local
	// ServiceCIDR and ClusterCIDR are whose addresses have names here, and the
	// latter also who is answered, beside the machine itself; zero is 10.96.0.0/16
	// and 10.62.0.0/16.
	ServiceCIDR, ClusterCIDR netip.Prefix
	// Gateway6, ServiceCIDR6 and ClusterCIDR6 are the same in IPv6; zero is IPv4
	// alone.
	Gateway6                   netip.Addr
	ServiceCIDR6, ClusterCIDR6 netip.Prefix
	ResolvConf                 string           // with the servers for other names; "" is the machine's
	Servers                    []netip.AddrPort // instead of those, for tests
	Log                        *slog.Logger     // nil discards
	Metrics                    prometheus.Registerer
}

// Server serves names over UDP and TCP.
type Server struct {
	c       Config
	log     *slog.Logger
	zone    *zone
	forward *forwarder
	queries *prometheus.CounterVec
	at      netip.AddrPort
	packets net.PacketConn
	streams net.Listener
}

const (
	// datagram is the largest that is sent to who says that he takes it: it is not
	// cut into pieces on any usual network (DNS flag day 2020).
	datagram = 1232
	// aliases is how many names may lead to one another.
	aliases = 8
)

// New makes a server and listens; questions wait until Run. When it cannot
// listen, pods should not be told of it.
func New(ctx context.Context, c Config) (*Server, error) {
	if c.Domain == "" {
		c.Domain = "cluster.local"
	}
	if !c.ServiceCIDR.IsValid() {
		c.ServiceCIDR = netip.MustParsePrefix("10.96.0.0/16")
	}
	if !c.ClusterCIDR.IsValid() {
		c.ClusterCIDR = netip.MustParsePrefix("10.62.0.0/16")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Objects == nil || !c.Listen.IsValid() {
		return nil, errors.New("dns: Objects and Listen are needed")
	}
	if _, ok := dns.IsDomainName(c.Domain); !ok {
		return nil, fmt.Errorf("cluster domain %q is not a domain name", c.Domain)
	}
	s := &Server{
		c: c, log: c.Log, zone: newZone(c), forward: newForwarder(c),
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "faas_dns_queries_total", Help: "Names that pods asked for: of the cluster, forwarded to another server, known from an earlier answer, or refused.",
		}, []string{"kind"}),
	}
	if err := s.listen(ctx); err != nil {
		return nil, err
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(s.queries)
	}
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() netip.AddrPort { return s.at }

// Run serves until ctx is done and returns nil then. It serves other names
// before those of the cluster are known; to a question for one of these, the
// answer is SERVFAIL until then. It can be called once.
func (s *Server) Run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) { s.serve(ctx, w, r) })
	servers := []*dns.Server{
		{PacketConn: s.packets, Handler: handler, UDPSize: 4096},
		{Listener: s.streams, Handler: handler},
	}
	var wg sync.WaitGroup
	failed := make(chan error, len(servers))
	for _, d := range servers {
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { failed <- d.ActivateAndServe() })
		select {
		case <-started: // before that it cannot be shut down
		case err := <-failed:
			failed <- err
		}
	}
	wg.Go(func() { s.zone.run(ctx) })
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve names: %w", err)
	}
	cancel()
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer stop()
	for _, d := range servers {
		_ = d.ShutdownContext(end)
	}
	wg.Wait()
	return err
}

// listen opens the same port for both protocols.
func (s *Server) listen(ctx context.Context) (err error) {
	var lc net.ListenConfig
	for tries := 1; ; tries++ {
		if s.packets, err = lc.ListenPacket(ctx, "udp", s.c.Listen.String()); err != nil {
			return fmt.Errorf("listen for names: %w", err)
		}
		s.at = s.packets.LocalAddr().(*net.UDPAddr).AddrPort()
		if s.streams, err = lc.Listen(ctx, "tcp", s.at.String()); err == nil {
			return nil
		}
		s.packets.Close()
		// With any port, the one of UDP may be taken for TCP.
		if s.c.Listen.Port() != 0 || !errors.Is(err, syscall.EADDRINUSE) || tries == 10 {
			return fmt.Errorf("listen for names: %w", err)
		}
	}
}

// serve answers one question. Who is neither a pod nor the machine itself hears
// nothing: an answer would help to flood others.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) {
	if !s.known(w.RemoteAddr()) {
		s.queries.WithLabelValues("refused").Inc()
		_ = w.Close()
		return
	}
	m := new(dns.Msg).SetReply(r)
	m.RecursionAvailable = true
	switch {
	case r.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
	case len(r.Question) != 1:
		m.Rcode = dns.RcodeFormatError
	case r.Question[0].Qclass != dns.ClassINET:
		m.Rcode = dns.RcodeRefused
	default:
		a := s.resolve(ctx, r.Question[0], asked{dnssec: wantsDNSSEC(r), unchecked: r.CheckingDisabled})
		m.Rcode, m.Answer, m.Ns, m.Extra = a.rcode, a.answer, a.authority, a.extra
		m.Authoritative, m.AuthenticatedData = a.authoritative, a.authentic
	}
	size := dns.MinMsgSize
	if o := r.IsEdns0(); o != nil {
		size = max(size, min(int(o.UDPSize()), datagram))
		m.SetEdns0(datagram, o.Do())
		if o.Version() != 0 {
			m.Rcode, m.Answer, m.Ns = dns.RcodeBadVers, nil, nil
		}
	}
	if _, stream := w.RemoteAddr().(*net.TCPAddr); stream {
		size = dns.MaxMsgSize
	}
	m.Compress = true
	m.Truncate(size)
	if err := w.WriteMsg(m); err != nil && ctx.Err() == nil {
		s.log.Debug("an answer was not sent", slog.Any("error", err))
	}
}

func wantsDNSSEC(r *dns.Msg) bool {
	o := r.IsEdns0()
	return o != nil && o.Do()
}

func (s *Server) known(client net.Addr) bool {
	a, err := netip.ParseAddrPort(client.String())
	if err != nil {
		return false
	}
	ip := a.Addr().Unmap()
	return ip.IsLoopback() || ip == s.at.Addr().Unmap() || s.c.ClusterCIDR.Contains(ip) || s.c.ClusterCIDR6.Contains(ip)
}

// answer is what is said about a name.
type answer struct {
	rcode                    int
	answer, authority, extra []dns.RR
	authoritative, authentic bool
}

// asked is what else a question says.
type asked struct{ dnssec, unchecked bool }

// resolve finds the answer, over aliases.
func (s *Server) resolve(ctx context.Context, q dns.Question, how asked) answer {
	var out answer
	name := q.Name
	for i := range aliases {
		a, mine := s.zone.lookup(name, q.Qtype)
		if mine {
			s.queries.WithLabelValues("cluster").Inc()
		} else {
			var cached bool
			a, cached = s.forward.ask(ctx, question{name: dns.CanonicalName(name), kind: q.Qtype, asked: how})
			s.queries.WithLabelValues(map[bool]string{true: "cached", false: "forwarded"}[cached]).Inc()
			for _, rr := range a.answer {
				// As it was written in the question: some clients compare.
				if strings.EqualFold(rr.Header().Name, name) {
					rr.Header().Name = name
				}
			}
		}
		if i == 0 {
			out.authoritative, out.authentic = a.authoritative, a.authentic
		}
		out.rcode, out.authority, out.extra = a.rcode, a.authority, append(out.extra, a.extra...)
		out.answer = append(out.answer, a.answer...)
		alias, ok := last(a.answer).(*dns.CNAME)
		// Whoever another server is asked for has followed its own aliases.
		if !ok || !mine || q.Qtype == dns.TypeCNAME {
			return out
		}
		out.authority = nil
		name = alias.Target
	}
	return answer{rcode: dns.RcodeServerFailure}
}

func last(in []dns.RR) dns.RR {
	if len(in) == 0 {
		return nil
	}
	return in[len(in)-1]
}
