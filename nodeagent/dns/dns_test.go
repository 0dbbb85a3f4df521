package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type rig struct {
	*testing.T
	objects *memory.Objects
	server  *Server
	other   *other
}

// other is the machine's own name server.
type other struct {
	at    netip.AddrPort
	asked atomic.Int64
	serve atomic.Pointer[dns.HandlerFunc] // nil answers with 192.0.2.1
}

func (o *other) answers(f dns.HandlerFunc) { o.serve.Store(&f) }

func newOther(t *testing.T) *other {
	t.Helper()
	o := &other{}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		o.asked.Add(1)
		if f := o.serve.Load(); f != nil {
			(*f)(w, r)
			return
		}
		m := new(dns.Msg).SetReply(r)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.IPv4(192, 0, 2, 1)}}
		_ = w.WriteMsg(m)
	})
	p, l := both(t)
	o.at = netip.MustParseAddrPort(p.LocalAddr().String())
	for _, s := range []*dns.Server{{PacketConn: p, Handler: handler}, {Listener: l, Handler: handler}} {
		started, end := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { end <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-end })
	}
	return o
}

// both takes a port that is free for UDP and for TCP: what is for the one may be
// somebody else's for the other.
func both(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for try := 1; ; try++ {
		p, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", p.LocalAddr().String())
		if err == nil {
			return p, l
		}
		p.Close()
		if try == 100 {
			t.Fatal(err)
		}
	}
}

func newRig(t *testing.T, objects ...api.Object) *rig {
	t.Helper()
	r := &rig{T: t, objects: memory.New(memory.Config{}), other: newOther(t)}
	for _, n := range []string{"shop", "openfaas-fn"} {
		r.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}})
	}
	for _, o := range objects {
		r.create(o)
	}
	r.run(Config{Objects: r.objects, Servers: []netip.AddrPort{r.other.at}})
	for _, s := range []<-chan struct{}{r.server.zone.services.Synced(), r.server.zone.slices.Synced()} {
		<-s
	}
	return r
}

func (r *rig) run(c Config) {
	r.Helper()
	c.Listen, c.Gateway = netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddr("10.62.0.1")
	var err error
	if r.server, err = New(r.Context(), c); err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	go func() { end <- r.server.Run(ctx) }()
	r.Cleanup(func() {
		cancel()
		if err := <-end; err != nil {
			r.Error(err)
		}
	})
}

func (r *rig) create(o api.Object) {
	r.Helper()
	if _, err := r.objects.Create(context.Background(), o); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) ask(network, name string, kind uint16, more ...func(*dns.Msg)) *dns.Msg {
	r.Helper()
	m := new(dns.Msg).SetQuestion(name, kind)
	for _, f := range more {
		f(m)
	}
	got, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(m, r.server.Addr().String())
	if err != nil {
		r.Fatalf("%s %s: %v", dns.TypeToString[kind], name, err)
	}
	return got
}

func service(ns, name, ip string, more func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{
		ClusterIP: ip, Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}},
	}}
	if more != nil {
		more(s)
	}
	return s
}

func slice(ns, name string, e ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: name + "-1", Labels: map[string]string{api.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: e,
		Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
	}
}

func ready(a string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}
}

func waiting(a string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: new(false)}}
}

func named(e discoveryv1.Endpoint, host string) discoveryv1.Endpoint {
	e.Hostname = &host
	return e
}

// short is an answer in few words: code, records, and what there is beside.
func short(m *dns.Msg) string {
	var out []string
	for _, r := range m.Answer {
		h := r.Header()
		out = append(out, strings.ReplaceAll(strings.TrimPrefix(r.String(), h.String()), "\t", " "))
	}
	slices.Sort(out)
	if len(m.Ns) == 1 && m.Ns[0].Header().Rrtype == dns.TypeSOA {
		out = append(out, "(soa)")
	}
	return strings.TrimSpace(dns.RcodeToString[m.Rcode] + " " + strings.Join(out, ", "))
}

func TestNames(t *testing.T) {
	r := newRig(
		t,
		service("shop", "web", "10.96.0.5", nil),
		slice("shop", "web", ready("10.62.0.9")),
		service("shop", "db", corev1.ClusterIPNone, nil),
		slice("shop", "db", named(ready("10.62.0.5"), "db-0"), ready("10.62.1.5"), waiting("10.62.1.6")),
		service("shop", "peers", corev1.ClusterIPNone, func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }),
		slice("shop", "peers", waiting("10.62.1.7")),
		service("shop", "empty", corev1.ClusterIPNone, nil),
		service("shop", "inside", "", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "web.shop.svc.cluster.local"
		}),
		service("shop", "outside", "", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.org"
		}),
		service("shop", "round", "", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "round.shop.svc.cluster.local"
		}),
		service("openfaas-fn", "resize", "", func(s *corev1.Service) { s.Labels = map[string]string{api.LabelFunction: "resize"} }),
	)
	const (
		shop   = ".shop.svc.cluster.local."
		soaOf  = "NOERROR (soa)"
		nobody = "NXDOMAIN (soa)"
	)
	for _, c := range []struct {
		name string
		kind uint16
		want string
	}{
		{"web" + shop, dns.TypeA, "NOERROR 10.96.0.5"},
		{"WeB" + shop, dns.TypeA, "NOERROR 10.96.0.5"},
		{"web" + shop, dns.TypeAAAA, soaOf},
		{"web" + shop, dns.TypeTXT, soaOf},
		{"none" + shop, dns.TypeA, nobody},
		{"web.other.svc.cluster.local.", dns.TypeA, nobody},
		{"shop.svc.cluster.local.", dns.TypeA, soaOf},
		{"other.svc.cluster.local.", dns.TypeA, nobody},
		{"svc.cluster.local.", dns.TypeA, soaOf},
		{"cluster.local.", dns.TypeA, soaOf},
		{"example.org.shop.svc.cluster.local.", dns.TypeA, nobody},
		{"db" + shop, dns.TypeA, "NOERROR 10.62.0.5, 10.62.1.5"},
		{"peers" + shop, dns.TypeA, "NOERROR 10.62.1.7"},
		{"empty" + shop, dns.TypeA, soaOf},
		{"db-0.db" + shop, dns.TypeA, "NOERROR 10.62.0.5"},
		{"10-62-1-5.db" + shop, dns.TypeA, "NOERROR 10.62.1.5"},
		{"10-62-1-6.db" + shop, dns.TypeA, nobody},
		{"db-1.db" + shop, dns.TypeA, nobody},
		{"_http._tcp.web" + shop, dns.TypeSRV, "NOERROR 0 100 80 web.shop.svc.cluster.local."},
		{"_http._udp.web" + shop, dns.TypeSRV, nobody},
		{"_dns._udp.web" + shop, dns.TypeSRV, "NOERROR 0 100 53 web.shop.svc.cluster.local."},
		{"_http._tcp.web" + shop, dns.TypeA, soaOf},
		{"_tcp.web" + shop, dns.TypeA, soaOf},
		{"web" + shop, dns.TypeSRV, "NOERROR 0 100 53 web.shop.svc.cluster.local., 0 100 80 web.shop.svc.cluster.local."},
		{"_http._tcp.db" + shop, dns.TypeSRV, "NOERROR 0 100 8080 10-62-1-5.db.shop.svc.cluster.local., 0 100 8080 db-0.db.shop.svc.cluster.local."},
		{"inside" + shop, dns.TypeA, "NOERROR 10.96.0.5, web.shop.svc.cluster.local."},
		{"inside" + shop, dns.TypeAAAA, "NOERROR web.shop.svc.cluster.local., (soa)"},
		{"outside" + shop, dns.TypeA, "NOERROR 192.0.2.1, example.org."},
		{"outside" + shop, dns.TypeCNAME, "NOERROR example.org."},
		{"round" + shop, dns.TypeA, "SERVFAIL"},
		{"resize.openfaas-fn.svc.cluster.local.", dns.TypeA, "NOERROR 10.62.0.1"},
		{"10-62-0-5.shop.pod.cluster.local.", dns.TypeA, "NOERROR 10.62.0.5"},
		{"192-0-2-5.shop.pod.cluster.local.", dns.TypeA, nobody},
		{"10-62-0-5.other.pod.cluster.local.", dns.TypeA, nobody},
		{"5.0.96.10.in-addr.arpa.", dns.TypePTR, "NOERROR web.shop.svc.cluster.local."},
		{"5.0.62.10.in-addr.arpa.", dns.TypePTR, "NOERROR db-0.db.shop.svc.cluster.local."},
		{"77.0.62.10.in-addr.arpa.", dns.TypePTR, nobody},
		{"dns-version.cluster.local.", dns.TypeTXT, `NOERROR "1.1.0"`},
		{"example.org.", dns.TypeA, "NOERROR 192.0.2.1"},
	} {
		got := r.ask("udp", c.name, c.kind)
		if s := short(got); s != c.want {
			t.Errorf("%s %s: got %s, want %s", dns.TypeToString[c.kind], c.name, s, c.want)
		}
		if mine := c.name != "example.org." && got.Rcode != dns.RcodeServerFailure; got.Authoritative != mine || !got.RecursionAvailable {
			t.Errorf("%s: authoritative is %v, recursion available %v", c.name, got.Authoritative, got.RecursionAvailable)
		}
		for _, a := range slices.Concat(got.Answer, got.Ns) {
			if mine := dns.IsSubDomain("cluster.local.", a.Header().Name); mine && a.Header().Ttl != ttl {
				t.Errorf("%s: a record may be kept for %d s", c.name, a.Header().Ttl)
			}
		}
	}
	srv := r.ask("udp", "_http._tcp.db"+shop, dns.TypeSRV)
	if len(srv.Extra) != 2 {
		t.Errorf("an SRV answer brings %d addresses, want 2", len(srv.Extra))
	}
}

// Clients as programs have them.
func TestGoResolver(t *testing.T) {
	r := newRig(
		t,
		service("shop", "web", "10.96.0.5", nil),
		service("shop", "db", corev1.ClusterIPNone, nil),
		slice("shop", "db", named(ready("10.62.0.5"), "db-0")),
	)
	res := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, r.server.Addr().String())
	}}
	if got, err := res.LookupHost(t.Context(), "web.shop.svc.cluster.local."); err != nil || fmt.Sprint(got) != "[10.96.0.5]" {
		t.Errorf("host: %v, %v", got, err)
	}
	_, srv, err := res.LookupSRV(t.Context(), "http", "tcp", "db.shop.svc.cluster.local.")
	if err != nil || len(srv) != 1 || srv[0].Target != "db-0.db.shop.svc.cluster.local." || srv[0].Port != 8080 {
		t.Errorf("SRV: %v, %v", srv, err)
	}
	if got, err := res.LookupAddr(t.Context(), "10.96.0.5"); err != nil || fmt.Sprint(got) != "[web.shop.svc.cluster.local.]" {
		t.Errorf("address: %v, %v", got, err)
	}
	_, err = res.LookupHost(t.Context(), "none.shop.svc.cluster.local.")
	if e, ok := errors.AsType[*net.DNSError](err); !ok || !e.IsNotFound {
		t.Errorf("a name that is not there: %v", err)
	}
}

// Endpoints that come and go are seen.
func TestNamesFollow(t *testing.T) {
	r := newRig(t, service("shop", "db", corev1.ClusterIPNone, nil), slice("shop", "db", ready("10.62.0.5")))
	if _, err := r.objects.Update(t.Context(), slice("shop", "db", ready("10.62.0.6")), api.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	const want = "NOERROR 10.62.0.6"
	for limit := time.Now().Add(10 * time.Second); ; {
		got := short(r.ask("udp", "db.shop.svc.cluster.local.", dns.TypeA))
		if got == want {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

// What does not fit is said to be cut off, and is whole over TCP.
func TestLongAnswers(t *testing.T) {
	const n = 200
	var all []discoveryv1.Endpoint
	for i := range n {
		all = append(all, ready(fmt.Sprintf("10.62.1.%d", i)))
	}
	r := newRig(t, service("shop", "db", corev1.ClusterIPNone, nil), slice("shop", "db", all...))
	const name = "db.shop.svc.cluster.local."
	for _, c := range []struct {
		network string
		size    uint16 // of EDNS; 0 is none
		largest int
		whole   bool
	}{{"udp", 0, 512, false}, {"udp", 4096, datagram, false}, {"udp", 100, 512, false}, {"tcp", 0, 65535, true}} {
		got := r.ask(c.network, name, dns.TypeA, func(m *dns.Msg) {
			if c.size > 0 {
				m.SetEdns0(c.size, false)
			}
		})
		got.Compress = true
		if got.Truncated == c.whole || (len(got.Answer) == n) != c.whole || got.Len() > c.largest {
			t.Errorf("%s, %d: %d records in %d bytes, cut off: %v", c.network, c.size, len(got.Answer), got.Len(), got.Truncated)
		}
		if (got.IsEdns0() != nil) != (c.size > 0) {
			t.Errorf("%s, %d: EDNS is %v", c.network, c.size, got.IsEdns0())
		}
	}
}

func TestOddQuestions(t *testing.T) {
	r := newRig(t)
	for want, change := range map[int]func(*dns.Msg){
		dns.RcodeRefused:        func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		dns.RcodeNotImplemented: func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate },
		dns.RcodeFormatError:    func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		dns.RcodeBadVers:        func(m *dns.Msg) { m.SetEdns0(1232, false).IsEdns0().SetVersion(1) },
	} {
		if got := r.ask("udp", "cluster.local.", dns.TypeA, change); got.Rcode != want {
			t.Errorf("got %s, want %s", dns.RcodeToString[got.Rcode], dns.RcodeToString[want])
		}
	}
}

// An answer of another server is kept, and asked for once by however many.
func TestForwardOnce(t *testing.T) {
	r := newRig(t)
	const clients = 20
	hold := make(chan struct{})
	reply := func(w dns.ResponseWriter, q *dns.Msg) {
		<-hold
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.IPv4(192, 0, 2, 7)}}
		_ = w.WriteMsg(m)
	}
	r.other.answers(reply)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			name := "example.org."
			if i%2 == 0 {
				name = "Example.ORG."
			}
			got := r.ask("udp", name, dns.TypeA)
			if short(got) != "NOERROR 192.0.2.7" || got.Answer[0].Header().Name != name {
				t.Errorf("got %v", got)
			}
		})
	}
	for len(r.server.forward.places) < clients { // all are on their way
		<-time.After(time.Millisecond)
	}
	close(hold)
	wg.Wait()
	r.ask("tcp", "example.org.", dns.TypeA)
	if n := r.other.asked.Load(); n != 1 {
		t.Errorf("the other server was asked %d times", n)
	}
}

func TestForwardFailures(t *testing.T) {
	bad := newOther(t)
	bad.answers(func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	})
	good := newOther(t)
	good.answers(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "org.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "a.", Mbox: "b.", Minttl: 60}}
		_ = w.WriteMsg(m)
	})
	r := &rig{T: t, objects: memory.New(memory.Config{})}
	r.run(Config{Objects: r.objects, Servers: []netip.AddrPort{bad.at, good.at}})
	for range 2 {
		if got := short(r.ask("udp", "example.org.", dns.TypeA)); got != "NXDOMAIN (soa)" {
			t.Errorf("got %s", got)
		}
	}
	if n := good.asked.Load(); n != 1 {
		t.Errorf("that there is no such name was asked for %d times", n)
	}
	r = &rig{T: t, objects: memory.New(memory.Config{})}
	r.run(Config{Objects: r.objects, Servers: []netip.AddrPort{bad.at}})
	before := bad.asked.Load()
	for range 2 {
		if got := short(r.ask("udp", "example.org.", dns.TypeA)); got != "SERVFAIL" {
			t.Errorf("got %s", got)
		}
	}
	if n := bad.asked.Load() - before; n != 2 {
		t.Errorf("a failure was asked for %d times of 2: it must not be kept", n)
	}
}

// What another server has cut off is asked for again over TCP.
func TestForwardLongAnswer(t *testing.T) {
	r := newRig(t)
	r.other.answers(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		for i := range 200 {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.IPv4(192, 0, 2, byte(i))})
		}
		if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
			m.Truncate(512)
		}
		_ = w.WriteMsg(m)
	})
	if got := r.ask("tcp", "example.org.", dns.TypeA); len(got.Answer) != 200 {
		t.Errorf("%d records", len(got.Answer))
	}
}

// Before the cluster's names are known, nobody hears that a name is not there.
func TestNotSyncedYet(t *testing.T) {
	r := &rig{T: t, objects: memory.New(memory.Config{}), other: newOther(t)}
	r.run(Config{Objects: deaf{r.objects}, Servers: []netip.AddrPort{r.other.at}})
	if got := short(r.ask("udp", "web.shop.svc.cluster.local.", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("got %s", got)
	}
	if got := short(r.ask("udp", "example.org.", dns.TypeA)); got != "NOERROR 192.0.2.1" {
		t.Errorf("another name: got %s", got)
	}
}

// deaf is a control plane that does not answer.
type deaf struct{ api.Objects }

func (deaf) Watch(context.Context, *api.Resource, api.WatchOptions) (api.Watch, error) {
	return nil, errors.New("nobody is there")
}

func TestWhoIsAnswered(t *testing.T) {
	s := &Server{c: Config{ClusterCIDR: netip.MustParsePrefix("10.62.0.0/16")}, at: netip.MustParseAddrPort("169.254.20.53:53")}
	for a, want := range map[string]bool{
		"10.62.3.4:5": true, "127.0.0.1:5": true, "169.254.20.53:5": true, "[::ffff:10.62.3.4]:5": true, "192.0.2.1:5": false, "[2001:db8::1]:5": false,
	} {
		addr := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(a))
		if got := s.known(addr); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}

func TestServersOfTheMachine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(s string, at time.Time) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, []byte(s), 0o600), os.Chtimes(file, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	write("nameserver 192.0.2.1\nnameserver 169.254.20.53\nsearch x\n", time.Unix(1, 0))
	f := newForwarder(Config{ResolvConf: file, Listen: netip.MustParseAddrPort("169.254.20.53:53")})
	if got := fmt.Sprint(f.list()); got != "[192.0.2.1:53]" {
		t.Errorf("got %s", got)
	}
	write("nameserver 192.0.2.2\n", time.Unix(2, 0))
	if got := fmt.Sprint(f.list()); got != "[192.0.2.1:53]" {
		t.Errorf("the file is read at each question: %s", got)
	}
	f.read = time.Time{}
	if got := fmt.Sprint(f.list()); got != "[192.0.2.2:53]" {
		t.Errorf("after a change: got %s", got)
	}
}

func TestCache(t *testing.T) {
	c, now := newCache(), time.Unix(1000, 0)
	reply := func(ttl uint32) *dns.Msg {
		m := new(dns.Msg).SetQuestion("a.", dns.TypeA)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "a.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: net.IPv4(192, 0, 2, 1)}}
		return m
	}
	q := question{name: "a.", kind: dns.TypeA}
	c.put(q, reply(60), now)
	if m := c.get(q, now.Add(20*time.Second)); m == nil || m.Answer[0].Header().Ttl != 40 {
		t.Errorf("after 20 s of 60: %v", m)
	}
	if m := c.get(q, now.Add(60*time.Second)); m != nil {
		t.Errorf("after all of its time: %v", m)
	}
	c.put(q, reply(0), now)
	if m := c.get(q, now); m != nil {
		t.Errorf("what must not be kept was: %v", m)
	}
	for i := range keepMost + 10 {
		c.put(question{name: fmt.Sprint(i), kind: dns.TypeA}, reply(60), now)
		c.get(question{name: "0", kind: dns.TypeA}, now) // it is asked for all the time
	}
	if len(c.by) != keepMost || c.order.Len() != keepMost {
		t.Errorf("%d and %d answers are kept", len(c.by), c.order.Len())
	}
	if c.get(question{name: "0", kind: dns.TypeA}, now) == nil || c.get(question{name: "1", kind: dns.TypeA}, now) != nil {
		t.Error("it was not the one that nobody asks for that had to go")
	}
}
