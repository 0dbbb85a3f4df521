package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// once is a body that a client can't send a second time: what the platform loses is
// not hidden by a client that tries again.
func once(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} }

// startClosed calls a URL by so many clients, each of which waits for its answer
// before it calls again.
func startClosed(t *testing.T, url string, clients int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel, body: once, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: 30 * time.Second}}
	for range clients {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				l.note(l.call(url))
			}
		})
	}
	t.Cleanup(func() { l.stop() })
	return l
}

// The only server is told to end and started again, over and over, under loads of
// both kinds: of ten thousand calls none fails.
func TestRestartUnderLoad(t *testing.T) {
	p := platform.New(t)
	build(t, p)
	deploy(t, p, openfaas.FunctionDeployment{Service: "steady", Labels: map[string]string{"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2"}})
	platform.Eventually(t, 30*time.Second, available(t, p, "steady", 2))
	url := p.URL + "/function/steady?sleep=5ms"
	open, closed := startRate(t, url, 200, once), startClosed(t, url, 8)
	const want = 10_000
	rounds, longest := 0, time.Duration(0)
	for ; open.count()+closed.count() < want || rounds < 3; rounds++ {
		was := closed.count()
		platform.Eventually(t, 60*time.Second, func() error {
			if n := closed.count() - was; n < 500 {
				return fmt.Errorf("only %d more calls are answered", n)
			}
			return nil
		})
		begun := time.Now()
		p.Terminate()
		p.Start()
		longest = max(longest, time.Since(begun))
	}
	n, m := open.count(), closed.count()
	open.must(t, 500)
	closed.must(t, 500)
	t.Logf("%d calls at a rate and %d in loops over %d restarts, each of which took %v at most", n, m, rounds, longest)
	t.Run("asynchronous call in flight", func(t *testing.T) { servedMeanwhile(t, p) })
	t.Run("killed", func(t *testing.T) { connectWhileAway(t, p) })
}

// An asynchronous call that takes long is waited for, and others are served while
// it is.
func servedMeanwhile(t *testing.T, p *platform.Platform) {
	const long = 6 * time.Second
	l := startClosed(t, p.URL+"/function/steady?sleep=5ms", 2)
	var accepted time.Time
	for time.Since(accepted) > long/2 { // one that still has time when others are served
		accepted = time.Now()
		if code, body, _ := invoke(t, p, "POST", "/async-function/steady?sleep="+long.String(), "x"); code != http.StatusAccepted {
			t.Fatalf("%d %s", code, body)
		}
		was := l.count()
		platform.Eventually(t, 30*time.Second, func() error {
			if n := l.count() - was; n < 100 {
				return fmt.Errorf("%d calls", n)
			}
			return nil
		})
	}
	begun, was := time.Now(), l.count()
	p.Terminate()
	took, served := time.Since(begun), l.count()-was
	if ran := time.Since(accepted); ran < long {
		t.Errorf("the server ended %v after it had accepted a call of %v: that was not waited for", ran, long)
	}
	if served < 20 {
		t.Errorf("%d calls were answered in the %v that its end took", served, took)
	}
	p.Start()
	l.must(t, 100)
	t.Logf("%d calls were answered in the %v until the asynchronous one was made", served, took)
}

// After kill -9 connections are not refused: they wait for the next process.
func connectWhileAway(t *testing.T, p *platform.Platform) {
	p.Kill()
	var conns []net.Conn
	for range 20 {
		c, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
		if err != nil {
			t.Fatalf("while no process is there: %v", err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /function/steady HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		conns = append(conns, c)
	}
	begun := time.Now()
	p.Start()
	for _, c := range conns {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		b, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200 OK") {
			t.Errorf("a connection that has waited: %.100q %v", b, err)
		}
	}
	t.Logf("answered %v after the start", time.Since(begun))
}

// Nobody comes for the sockets of a platform that has ended: its address is free
// again after a while, and nothing is left that holds it.
func TestSocketsAreGivenUp(t *testing.T) {
	p := platform.New(t)
	addr := strings.TrimPrefix(p.URL, "http://")
	p.Terminate()
	if l, err := net.Listen("tcp", addr); err == nil {
		l.Close()
		t.Error("nobody keeps the gateway's socket")
	}
	platform.Eventually(t, 30*time.Second, func() error {
		l, err := net.Listen("tcp", addr)
		if err == nil {
			l.Close()
		}
		return err
	})
	p.Start()
}

// `faas server start` of a newer build replaces the server that runs in the
// background: with its flags, and no call is lost.
func TestReplacedByNewBuild(t *testing.T) {
	older, newer := platform.BuildVersion(t, "v0.1.98"), platform.BuildVersion(t, "v0.1.99")
	p := platform.New(t)
	build(t, p)
	deploy(t, p, openfaas.FunctionDeployment{Service: "steady", Labels: map[string]string{"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2"}})
	platform.Eventually(t, 30*time.Second, available(t, p, "steady", 2))
	if said := p.Background(older); !strings.Contains(said, "was not started in the background") {
		t.Errorf("of a server that somebody else has started it says %q", said)
	}
	p.Terminate()
	p.Background(older, p.Args()...)
	release := func() string {
		info, err := p.Client.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.Version.Release
	}
	if v := release(); v != "v0.1.98" {
		t.Errorf("the version is %s", v)
	}
	url := p.URL + "/function/steady?sleep=5ms"
	open, closed := startRate(t, url, 200, once), startClosed(t, url, 4)
	busy := func() {
		was := closed.count()
		platform.Eventually(t, 30*time.Second, func() error {
			if n := closed.count() - was; n < 100 {
				return fmt.Errorf("only %d more calls are answered", n)
			}
			return nil
		})
	}
	busy()
	said := p.Background(newer)
	if !strings.Contains(said, "replacing v0.1.98") || !strings.Contains(said, "by v0.1.99") {
		t.Errorf("it says %q", said)
	}
	busy()
	open.must(t, 300)
	closed.must(t, 200)
	if v := release(); v != "v0.1.99" {
		t.Errorf("the version is %s", v)
	}
	if said := p.Background(newer); !strings.Contains(said, "answers at "+p.URL+" already") {
		t.Errorf("the same build again says %q", said)
	}
}
