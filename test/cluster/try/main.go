// Command try starts a cluster of three nodes on this machine for a person to
// play with: `make cluster`. It ends, with all that it has started, at Ctrl-C.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/podsnap/podsnap/test/cluster"
	"github.com/podsnap/podsnap/test/cluster/host"
)

func main() {
	cluster.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &person{ctx: ctx}
	err := p.play()
	p.clean()
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// person is whom the cluster is for, in the place of a test.
type person struct {
	ctx      context.Context //nolint:containedctx // it stands for a testing.T
	cleanups []func()
	failed   bool
}

// enough ends what can't go on.
type enough struct{ error }

func (*person) Helper()                    {}
func (p *person) Context() context.Context { return p.ctx }
func (p *person) Cleanup(f func())         { p.cleanups = append(p.cleanups, f) }
func (p *person) Failed() bool             { return p.failed }
func (*person) Logf(f string, a ...any)    { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (p *person) Errorf(f string, a ...any) {
	p.failed = true
	p.Logf(f, a...)
}

func (*person) Fatal(a ...any) {
	panic(enough{errors.New(strings.TrimSpace(fmt.Sprintln(a...)))})
}
func (*person) Fatalf(f string, a ...any) { panic(enough{fmt.Errorf(f, a...)}) }
func (p *person) Skip(a ...any)           { p.Fatal(a...) }
func (p *person) Skipf(f string, a ...any) {
	p.Fatalf(f, a...)
}

// guard runs f; what it could not go on with is its error.
func guard(f func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(enough)
			if !ok {
				panic(r)
			}
			err = e
		}
	}()
	f()
	return nil
}

func (p *person) clean() {
	for len(p.cleanups) > 0 {
		last := p.cleanups[len(p.cleanups)-1]
		p.cleanups = p.cleanups[:len(p.cleanups)-1]
		if err := guard(last); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

func (p *person) play() error {
	return guard(func() {
		fmt.Println("starting three hosts: h0 is the server, h1 and h2 join it")
		c := cluster.New(p, cluster.Config{})
		nodes := c.One()
		for _, n := range nodes {
			open, err := p.door(n.Host)
			if err != nil {
				p.Fatal(err)
			}
			if out, err := n.Faas(p.ctx, n.Client.Password, "login", "--username", n.Client.User, "--password-stdin"); err != nil {
				p.Fatal(err, out)
			}
			fmt.Printf(`
%s  gateway   http://%s from here, %s from the hosts
    enter it  nsenter --all --target %d env PATH=/run/bin:$PATH HOME=/var/lib PS1='%s# ' %s sh
    its disk  %s
`, n.Host.Name, open, n.URL, n.Host.Pid(), n.Host.Name, strings.Join(n.Env(), " "), n.Host.Disk())
		}
		fmt.Printf(`
client, a host without a platform
    enter it  nsenter --all --target %d sh

user admin, password %s
Ctrl-C ends it all.
`, c.Client.Pid(), nodes[0].Client.Password)
		<-p.ctx.Done()
		fmt.Println("\nending")
	})
}

// door is an address on this machine that leads to a host's gateway.
func (p *person) door(h *host.Host) (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	p.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(in, h)
		}
	}()
	return l.Addr().String(), nil
}

func (p *person) pass(in net.Conn, h *host.Host) {
	defer in.Close()
	out, err := h.Dial(p.ctx, "tcp4", h.IP()+":8080")
	if err != nil {
		return
	}
	defer out.Close()
	copied := make(chan struct{}, 2)
	for _, d := range [][2]net.Conn{{in, out}, {out, in}} {
		go func() {
			_, _ = io.Copy(d[0], d[1])
			if w, ok := d[0].(*net.TCPConn); ok {
				_ = w.CloseWrite()
			}
			copied <- struct{}{}
		}()
	}
	<-copied
	<-copied
}
