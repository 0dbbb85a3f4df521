package store

import (
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// proxy stands between a client and etcd and can be cut, or hold back what
// comes from etcd.
type proxy struct {
	t    *testing.T
	dir  string
	to   string
	wg   sync.WaitGroup
	mu   sync.Mutex
	l    net.Listener
	open map[net.Conn]bool
	hold chan struct{} // closed while bytes may pass
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	p := &proxy{t: t, dir: shortDir(t), to: to, open: map[net.Conn]bool{}, hold: make(chan struct{})}
	close(p.hold)
	p.listen()
	t.Cleanup(func() {
		p.release()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) url() string { return "unix://" + filepath.Join(p.dir, "x.sock") }

func (p *proxy) listen() {
	p.t.Helper()
	l, err := net.Listen("unix", filepath.Join(p.dir, "x.sock"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.l = l
	p.mu.Unlock()
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
}

func (p *proxy) serve(c net.Conn) {
	up, err := net.Dial("unix", p.to)
	if err != nil {
		c.Close()
		return
	}
	p.mu.Lock()
	p.open[c], p.open[up] = true, true
	p.mu.Unlock()
	p.wg.Go(func() {
		io.Copy(up, c) // ends with either side
		up.Close()
	})
	io.Copy(held{p, c}, up) // ends with either side
	c.Close()
}

// held writes to a client, when it may.
type held struct {
	p *proxy
	io.Writer
}

func (h held) Write(b []byte) (int, error) {
	h.p.mu.Lock()
	pass := h.p.hold
	h.p.mu.Unlock()
	<-pass
	return h.Writer.Write(b)
}

// cut ends all connections and refuses new ones until listen.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.l.Close()
	for c := range p.open {
		c.Close()
	}
	clear(p.open)
}

// block holds back what etcd sends until release.
func (p *proxy) block() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = make(chan struct{})
}

func (p *proxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.hold:
	default:
		close(p.hold)
	}
}
