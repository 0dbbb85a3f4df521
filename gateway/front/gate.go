package front

import (
	"net"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// gate counts connections and keeps their number bounded.
type gate struct {
	all, each int

	mu      sync.Mutex
	open    int
	by      map[netip.Addr]int
	gauge   prometheus.GaugeFunc
	refused *prometheus.CounterVec
}

// Why a connection is turned away.
const (
	overAll     = "all"
	overAddress = "address"
)

func newGate(all, each int, reg prometheus.Registerer) *gate {
	g := &gate{all: all, each: each, by: map[netip.Addr]int{}}
	g.gauge = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "faas_gateway_connections", Help: "Connections of clients that are open.",
	}, func() float64 {
		g.mu.Lock()
		defer g.mu.Unlock()
		return float64(g.open)
	})
	g.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "faas_gateway_connections_refused_total", Help: "Connections turned away because there were too many, in all or from one address.",
	}, []string{"limit"})
	if reg != nil {
		reg.MustRegister(g.gauge, g.refused)
	}
	return g
}

// enter takes a place; over names the limit that leaves none.
func (g *gate) enter(a netip.Addr) (over string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.open >= g.all:
		over = overAll
	case g.by[a] >= g.each:
		over = overAddress
	default:
		g.open++
		g.by[a]++
		return ""
	}
	g.refused.WithLabelValues(over).Inc()
	return over
}

func (g *gate) leave(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	if g.by[a]--; g.by[a] == 0 {
		delete(g.by, a)
	}
}

// counted is a connection with a place.
type counted struct {
	net.Conn
	addr netip.Addr
	once sync.Once
	g    *gate
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.once.Do(func() { c.g.leave(c.addr) })
	return c.Conn.Close()
}

// CloseWrite ends what is sent and leaves what comes.
func (c *counted) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

func addrOf(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
