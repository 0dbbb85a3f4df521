package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/internal/skew"
)

// doors are the servers of a node's cluster as the node knows them. Each of them
// serves everything, so a connection goes to whichever answers: the one that did
// last, first.
type doors struct {
	tls  *tls.Config
	ask  func(context.Context) ([]string, error) // which servers there are
	keep func([]string)                          // stores what is known
	log  *slog.Logger

	mu     sync.Mutex
	known  []string // host:port; never empty
	turned time.Time
}

// handshake bounds how long one server may take until a connection is up.
const handshake = 2 * time.Second

// dial implements http.Transport's DialTLSContext. It does not matter which server
// is named.
func (d *doors) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	var errs []error
	for _, addr := range d.all() {
		conn, err := d.open(ctx, network, addr)
		if err == nil {
			d.prefer(addr)
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (d *doors) open(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshake)
	defer cancel()
	raw, err := join.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, d.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

func (d *doors) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.known)
}

// prefer puts a server first.
func (d *doors) prefer(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.known, addr); i > 0 {
		d.known = slices.Insert(slices.Delete(d.known, i, i+1), 0, addr)
	}
}

// turn puts the first server last, not more than once a second; false if it did
// not.
func (d *doors) turn() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) < 2 || time.Since(d.turned) < time.Second {
		return false
	}
	d.turned = time.Now()
	d.known = append(d.known[1:], d.known[0])
	return true
}

// learn takes in which servers there are. One that is known stays as the last
// while no other is.
func (d *doors) learn(urls []string) {
	var addrs []string
	for _, s := range urls {
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			addrs = append(addrs, u.Host)
		}
	}
	if len(addrs) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(addrs, d.known[0]); i > 0 { // goes on being the first
		addrs = slices.Insert(slices.Delete(addrs, i, i+1), 0, d.known[0])
	}
	d.known = addrs
}

// askEvery is how often a node asks which servers there are.
const askEvery = time.Minute

// follow learns of servers until ctx is done; nil then.
func (d *doors) follow(ctx context.Context) error {
	for {
		wait := askEvery
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		urls, err := d.ask(short)
		cancel()
		if err != nil {
			d.log.Debug("which servers there are is not known", slog.Any("error", err))
			wait = 5 * time.Second
		} else if before := d.all(); len(urls) > 0 {
			d.learn(urls)
			if now := d.all(); !same(before, now) {
				d.keep(now)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// same tells whether two lists have the same in them, in any order.
func same(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// through is a transport by doors that leaves a server which finds no leader.
type through struct {
	doors *doors
	now   atomic.Pointer[http.Transport]
}

func (t *through) renew() {
	tr := join.NodeTransport(t.doors.tls)
	tr.DialTLSContext = t.doors.dial
	if old := t.now.Swap(tr); old != nil {
		old.CloseIdleConnections() // and the others when their streams have ended
	}
}

// RoundTrip implements http.RoundTripper.
func (t *through) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.now.Load().RoundTrip(r)
	if err == nil && resp.Header.Get(headerAway) != "" && t.doors.turn() {
		t.renew()
	}
	return resp, err
}

// CloseIdleConnections is what http.Client's calls.
func (t *through) CloseIdleConnections() { t.now.Load().CloseIdleConnections() }

// newDoors makes those of a node, which knows the server that it was told, and
// those that it has known before.
func (m *identity) newDoors(c *tls.Config, known []string) {
	c.NextProtos = []string{"h2", "http/1.1"}
	m.doors = &doors{
		tls: c, log: m.log, known: []string{strings.TrimPrefix(m.url, "https://")},
		ask: func(ctx context.Context) ([]string, error) {
			s, err := join.AskServers(ctx, m.client, m.url)
			return s.Servers, err
		},
		keep: m.keepServers,
	}
	for _, s := range known {
		if addr := strings.TrimPrefix(s, "https://"); !slices.Contains(m.doors.known, addr) {
			m.doors.known = append(m.doors.known, addr)
		}
	}
	t := &through{doors: m.doors}
	t.renew()
	m.servers = &acquaintance{release: m.c.Version, log: m.log, next: skew.Say(skew.Node, m.c.Version, t)}
	m.client = &http.Client{Transport: m.servers}
}
