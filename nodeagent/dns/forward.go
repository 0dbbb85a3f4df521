package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	tryTime  = 2 * time.Second // for one server
	askTime  = 5 * time.Second // for all of them
	atOnce   = 512             // questions that are under way
	rereadIn = 5 * time.Second // the list of servers is looked at again at most as often
)

// question is what is asked of another server.
type question struct {
	name string
	kind uint16
	asked
}

// forwarder asks the machine's own servers, one question once at a time.
type forwarder struct {
	c       Config
	log     *slog.Logger
	cache   *cache
	flights singleflight.Group
	places  chan struct{}

	mu      sync.Mutex
	servers []string
	read    time.Time // when the list of servers was looked at
	changed time.Time // of the file
}

func newForwarder(c Config) *forwarder {
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf" // a stub there is reached from here, not being a pod
	}
	return &forwarder{c: c, log: c.Log, cache: newCache(), places: make(chan struct{}, atOnce)}
}

// ask answers from the cache or from a server. The answer is the caller's own.
func (f *forwarder) ask(ctx context.Context, q question) (a answer, cached bool) {
	if m := f.cache.get(q, time.Now()); m != nil {
		return answerOf(m), true
	}
	select {
	case f.places <- struct{}{}:
		defer func() { <-f.places }()
	default:
		return answer{rcode: dns.RcodeServerFailure}, false
	}
	got, err, _ := f.flights.Do(q.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		m, err := f.exchange(ctx, q)
		if err == nil {
			f.cache.put(q, m, time.Now())
		}
		return m, err
	})
	if err != nil {
		f.log.Debug("no server has answered", slog.String("name", q.name), slog.Any("error", err))
		return answer{rcode: dns.RcodeServerFailure}, false
	}
	return answerOf(got.(*dns.Msg).Copy()), false
}

func (q question) String() string {
	s := dns.TypeToString[q.kind] + " " + q.name
	if q.dnssec {
		s += " do"
	}
	if q.unchecked {
		s += " cd"
	}
	return s
}

func answerOf(m *dns.Msg) answer {
	return answer{
		rcode: m.Rcode, answer: m.Answer, authority: m.Ns, authentic: m.AuthenticatedData,
		extra: slices.DeleteFunc(m.Extra, func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeOPT }),
	}
}

var errNoServer = errors.New("there is no server for names that are not the cluster's")

// exchange asks one server after the other. One that fails (SERVFAIL, REFUSED)
// is believed only if no other one knows better.
func (f *forwarder) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	m := new(dns.Msg).SetQuestion(q.name, q.kind)
	m.SetEdns0(datagram, q.dnssec)
	m.CheckingDisabled = q.unchecked
	var worse *dns.Msg
	var errs []error
	for _, server := range f.list() {
		r, err := f.one(ctx, m, server)
		switch {
		case err != nil:
			errs = append(errs, err)
		case r.Rcode == dns.RcodeSuccess || r.Rcode == dns.RcodeNameError:
			return r, nil
		default:
			worse = r
		}
	}
	switch {
	case worse != nil:
		return worse, nil
	case len(errs) == 0:
		return nil, errNoServer
	}
	return nil, errors.Join(errs...)
}

// one asks over UDP, and over TCP for what is longer than a datagram. The client
// makes sure that it is the answer to this question.
func (f *forwarder) one(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
	r, _, err := (&dns.Client{Timeout: tryTime, UDPSize: datagram}).ExchangeContext(ctx, m, server)
	if err == nil && r.Truncated {
		r, _, err = (&dns.Client{Net: "tcp", Timeout: tryTime}).ExchangeContext(ctx, m, server)
	}
	return r, err
}

// list is the machine's servers. The file is read again when it has changed.
func (f *forwarder) list() []string {
	if f.c.Servers != nil {
		var out []string
		for _, s := range f.c.Servers {
			out = append(out, s.String())
		}
		return out
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.read) < rereadIn {
		return f.servers
	}
	f.read = now
	info, err := os.Stat(f.c.ResolvConf)
	if err != nil || info.ModTime().Equal(f.changed) {
		return f.servers
	}
	conf, err := dns.ClientConfigFromFile(f.c.ResolvConf)
	if err != nil {
		f.log.Warn("the machine's list of name servers cannot be read", slog.Any("error", err))
		return f.servers
	}
	f.changed, f.servers = info.ModTime(), nil
	for _, s := range conf.Servers {
		// Ours may be in it, and would ask itself.
		if a, err := netip.ParseAddr(s); err == nil && a != f.c.Listen.Addr() {
			f.servers = append(f.servers, net.JoinHostPort(s, conf.Port))
		}
	}
	return f.servers
}
