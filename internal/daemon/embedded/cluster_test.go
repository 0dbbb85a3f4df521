package embedded

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/podsnap/podsnap/gateway/async"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/types"
)

// memberEnv makes the test's program a member: it holds its Config.
const memberEnv = "PODSNAP_TEST_MEMBER"

func TestMain(m *testing.M) {
	spec, ok := os.LookupEnv(memberEnv)
	if !ok {
		os.Exit(m.Run())
	}
	c := Config{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	err := json.Unmarshal([]byte(spec), &c)
	if err == nil {
		err = Run(context.Background(), c, func() { fmt.Println("ready") })
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// authority signs the members' certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.issue("ca", a.cert)
	b, err := tls.LoadX509KeyPair(a.path("ca.crt"), a.path("ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = b.Leaf, b.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

func (a *authority) path(file string) string { return filepath.Join(a.dir, file) }

// issue writes name.crt and name.key.
func (a *authority) issue(name string, c *x509.Certificate) {
	a.t.Helper()
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = k
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &k.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "EC PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(a.path(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

// leaf is good for both ends, at the address or under the name.
func (a *authority) leaf(name, address string) {
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "system:node:" + name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(address); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{address}
	}
	a.issue(name, c)
}

// member is one machine's stores, in a process of their own.
type member struct {
	t   *testing.T
	c   Config
	cmd *exec.Cmd
	up  chan struct{} // closed when it is ready
	log bytes.Buffer
	kv  *clientv3.Client
	js  jetstream.JetStream
}

func (m *member) start() {
	m.t.Helper()
	spec, err := json.Marshal(struct {
		*Config
		Log *int `json:",omitempty"`
	}{Config: &m.c})
	if err != nil {
		m.t.Fatal(err)
	}
	m.cmd = exec.Command(os.Args[0])
	m.cmd.Env = append(os.Environ(), memberEnv+"="+string(spec), "GORACE=halt_on_error=0")
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	m.cmd.Stderr = &m.log
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	up := make(chan struct{})
	m.up = up
	go func() { // ends with the process
		for s := bufio.NewScanner(out); s.Scan(); {
			if s.Text() == "ready" {
				close(up)
			}
		}
	}()
}

// kill is a power cut, but for the page cache.
func (m *member) kill() {
	if m.cmd != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
		m.cmd = nil
	}
}

func (m *member) ready() {
	m.t.Helper()
	select {
	case <-m.up:
	case <-time.After(40 * time.Second):
		m.t.Fatalf("member %s is not ready", m.c.Cluster.Self)
	}
}

// connect makes clients that last over the member's restarts.
func (m *member) connect() {
	m.t.Helper()
	nc, err := nats.Connect("nats://"+m.c.NATS, nats.Token(m.c.NATSToken), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(nc.Close)
	if !m.c.NoEtcd {
		m.kv, err = clientv3.New(clientv3.Config{Endpoints: []string{EtcdEndpoint(m.c.Socket)}, DialTimeout: 5 * time.Second})
		if err != nil {
			m.t.Fatal(err)
		}
		m.t.Cleanup(func() { m.kv.Close() })
	}
	if m.js, err = jetstream.New(nc); err != nil {
		m.t.Fatal(err)
	}
}

func (m *member) name() string { return NATSName(m.c.Cluster.Self) }

type members []*member

// newMembers are three that can be started.
func newMembers(t *testing.T, a *authority) members {
	t.Helper()
	return newMembersAt(t, a, "127.0.0.1", "127.0.0.2", "127.0.0.3")
}

func newMembersAt(t *testing.T, a *authority, addrs ...string) members {
	t.Helper()
	etcd, routes, clients := commonPort(t, addrs), commonPort(t, addrs), commonPort(t, addrs)
	run, err := os.MkdirTemp("", "pse") // short: a socket's path is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	var out members
	for _, self := range addrs {
		a.leaf(self, self)
		m := &member{t: t, c: Config{
			Dir: t.TempDir(), Socket: filepath.Join(run, self), NATS: net.JoinHostPort(self, strconv.Itoa(clients)), NATSToken: "token",
			Cluster: &Cluster{
				Self: self, Members: addrs, EtcdPort: etcd, NATSPort: routes,
				Cert: a.path(self + ".crt"), Key: a.path(self + ".key"), CA: a.path("ca.crt"), Secret: "secret",
			},
		}}
		t.Cleanup(func() {
			m.kill()
			if t.Failed() {
				t.Logf("%s said:\n%s", self, m.log.String())
			}
		})
		out = append(out, m)
	}
	return out
}

// commonPort is one that is free on all addresses now.
func commonPort(t *testing.T, addrs []string) int {
	t.Helper()
next:
	for range 20 {
		first, err := net.Listen("tcp", addrs[0]+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer first.Close()
		port := first.Addr().(*net.TCPAddr).Port
		for _, a := range addrs[1:] {
			l, err := net.Listen("tcp", net.JoinHostPort(a, strconv.Itoa(port)))
			if err != nil {
				continue next
			}
			defer l.Close()
		}
		return port
	}
	t.Fatal("no port is free on three addresses")
	return 0
}

// until waits for a condition; it says what it is that did not come.
func until(t *testing.T, limit time.Duration, what string, cond func() error) {
	t.Helper()
	end := time.NewTimer(limit)
	defer end.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("%s, within %s: %v", what, limit, err)
		}
	}
}

// One of three etcds ends without a word, the leader even: writes go on, and it
// catches up. The same for NATS: what was accepted is called.
func TestCluster(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	a := newAuthority(t)
	all := newMembers(t, a)
	all.start()
	t.Logf("three members are up after %s", time.Since(begin).Round(time.Millisecond))
	all.strangers(t, a)
	all.loseEtcdLeader(t)
	all.loseStreamLeader(t)
	for _, m := range all {
		m.kill()
		if said := m.log.String(); !strings.Contains(said, "etcd waits until most of the servers are there") || !strings.Contains(said, "NATS has a leader") {
			t.Errorf("%s does not say what it waits for:\n%s", m.c.Cluster.Self, said)
		}
	}
	t.Logf("all took %s", time.Since(begin).Round(time.Millisecond))
}

// A queue that was kept once is kept three times when that is wanted: what waits
// in it is called at once, and the copies come.
func TestMoreCopies(t *testing.T) {
	t.Parallel()
	all := newMembers(t, newAuthority(t))
	for _, m := range all {
		m.c.NoEtcd = true
	}
	all.start()
	q, stop := runQueue(t, all[0], 1, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	for i := range 20 {
		until(t, 60*time.Second, "a call is stored", func() error { return q.Enqueue(t.Context(), call(fmt.Sprint("old-", i))) })
	}
	stop()
	begin := time.Now()
	seen := newSeen()
	_, stop = runQueue(t, all[0], 3, seen)
	defer stop()
	until(t, 90*time.Second, "all calls that waited", func() error { return seen.lack(20) })
	t.Logf("the calls were made after %s", time.Since(begin).Round(time.Millisecond))
	until(t, 90*time.Second, "three copies", func() error { _, _, err := all.whole(t.Context(), all[0]); return err })
	t.Logf("three copies after %s", time.Since(begin).Round(time.Millisecond)) // NATS elects anew for each
}

// start starts all, and clients of them.
func (all members) start() {
	for _, m := range all {
		m.start()
	}
	for _, m := range all {
		m.ready()
		m.connect()
	}
}

// strangers have a certificate of the same authority, but no member's address, which
// is for NATS to know; or none of it.
func (all members) strangers(t *testing.T, a *authority) {
	t.Helper()
	a.leaf("worker", "worker.node.podsnap")
	c := all[0].c.Cluster
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	for name, welcome := range map[string]bool{"127.0.0.2": true, "worker": false, "": false} {
		conf := &tls.Config{RootCAs: pool, ServerName: c.Self}
		if name != "" {
			pair, err := tls.LoadX509KeyPair(a.path(name+".crt"), a.path(name+".key"))
			if err != nil {
				t.Fatal(err)
			}
			conf.Certificates = []tls.Certificate{pair}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}, Timeout: 5 * time.Second}
		resp, err := client.Get("https://" + net.JoinHostPort(c.Self, strconv.Itoa(c.etcdPort())) + "/version")
		if err == nil {
			resp.Body.Close()
		}
		client.CloseIdleConnections()
		if (err == nil) != (name != "") {
			t.Errorf("etcd's peers with the certificate %q: %v", name, err)
		}
		if err := route(c, conf); (err == nil) != welcome {
			t.Errorf("NATS' routes with the certificate %q: %v", name, err)
		}
	}
}

// route greets NATS as another member: nil is that the certificates are taken.
func route(c *Cluster, conf *tls.Config) error {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(c.Self, strconv.Itoa(c.natsPort())), 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	s := tls.Client(conn, conf)
	if err := s.Handshake(); err != nil {
		return err
	}
	if _, err := s.Write([]byte("CONNECT {}\r\nPING\r\n")); err != nil { // without the secret
		return err
	}
	b, err := io.ReadAll(s)
	if !strings.Contains(string(b), "Authorization Violation") {
		return fmt.Errorf("without the secret it said %q, %w", b, err)
	}
	return nil
}

// loseEtcdLeader writes while the leader is killed and comes back.
func (all members) loseEtcdLeader(t *testing.T) {
	t.Helper()
	ctx, victim, writer := t.Context(), all[2], all[1]
	until(t, 30*time.Second, "the victim leads etcd", func() error {
		st, err := writer.kv.Status(ctx, EtcdEndpoint(writer.c.Socket))
		if err != nil {
			return err
		}
		own, err := victim.kv.Status(ctx, EtcdEndpoint(victim.c.Socket))
		if err != nil || st.Leader == own.Header.MemberId {
			return err
		}
		for _, m := range all {
			if _, err := m.kv.MoveLeader(ctx, own.Header.MemberId); err == nil {
				break // only the leader's own client may
			}
		}
		return errors.New("it does not yet")
	})
	write := func(i int) {
		t.Helper()
		until(t, 30*time.Second, "a write", func() error {
			try, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			_, err := writer.kv.Put(try, "key", strconv.Itoa(i))
			return err
		})
	}
	var gap time.Duration
	for i := range 200 {
		if i == 50 {
			victim.kill()
		}
		start := time.Now()
		write(i)
		gap = max(gap, time.Since(start))
	}
	t.Logf("etcd: the longest write over the leader's death took %s", gap.Round(time.Millisecond))
	if gap > 20*time.Second { // it is 1 to 2 s; this machine may do something else
		t.Errorf("etcd took no write for %s", gap)
	}
	victim.start()
	victim.ready()
	until(t, 30*time.Second, "etcd has caught up", func() error {
		try, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := victim.kv.Get(try, "key", clientv3.WithSerializable())
		if err == nil && (len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "199") {
			return fmt.Errorf("the member itself has %v", got)
		}
		return err
	})
}

func (members) stream(ctx context.Context, by *member) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s, err := by.js.Stream(ctx, "PODSNAP_ASYNC")
	if err != nil {
		return nil, err
	}
	return s.CachedInfo(), nil
}

// whole is nil when stream and consumer have three copies that are current.
func (all members) whole(ctx context.Context, by *member) (stream, consumer string, err error) {
	info, err := all.stream(ctx, by)
	if err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	cons, err := by.js.Consumer(ctx, "PODSNAP_ASYNC", "workers")
	if err != nil {
		return "", "", err
	}
	for what, c := range map[string]*jetstream.ClusterInfo{"the stream": info.Cluster, "the consumer": cons.CachedInfo().Cluster} {
		if c == nil || c.Leader == "" || len(c.Replicas) != 2 {
			return "", "", fmt.Errorf("%s has the copies %+v", what, c)
		}
		for _, r := range c.Replicas {
			if !r.Current || r.Offline {
				return "", "", fmt.Errorf("%s: the copy at %s is not current", what, r.Name)
			}
		}
	}
	return info.Cluster.Leader, cons.CachedInfo().Cluster.Leader, nil
}

// loseStreamLeader sends 500 calls while the member ends that leads both the
// stream and the consumer.
func (all members) loseStreamLeader(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	victim, sender := all[0], all[1]
	stepDown := func(what, leader string) {
		if leader == victim.name() {
			return
		}
		body := fmt.Sprintf(`{"placement":{"preferred":%q}}`, victim.name())
		_, _ = sender.js.Conn().Request("$JS.API."+what, []byte(body), time.Second) // looked at below
	}
	seen := newSeen()
	q, stop := runQueue(t, sender, 3, seen)
	defer stop()
	until(t, 90*time.Second, "the victim leads the queue", func() error {
		s, c, err := all.whole(ctx, sender)
		if err != nil || (s == victim.name() && c == victim.name()) {
			return err
		}
		stepDown("STREAM.LEADER.STEPDOWN.PODSNAP_ASYNC", s)
		stepDown("CONSUMER.LEADER.STEPDOWN.PODSNAP_ASYNC.workers", c)
		return fmt.Errorf("the leaders are %s and %s", s, c)
	})
	const calls = 500
	var next, refused atomic.Int64
	var mu sync.Mutex
	var gap time.Duration
	var wg sync.WaitGroup
	half := make(chan struct{})
	accepted := map[string]bool{}
	for range 16 {
		wg.Go(func() {
			for i := next.Add(1); i <= calls; i = next.Add(1) {
				if i == calls/4 {
					close(half)
				}
				id, start := fmt.Sprint("call-", i), time.Now()
				if err := q.Enqueue(ctx, call(id)); err != nil {
					refused.Add(1)
					t.Logf("call %d was refused: %v", i, err)
					continue
				}
				mu.Lock()
				accepted[id] = true
				gap = max(gap, time.Since(start))
				mu.Unlock()
			}
		})
	}
	<-half
	victim.kill()
	killed := time.Now()
	wg.Wait()
	t.Logf("NATS: %d of %d calls accepted, the longest wait %s", len(accepted), calls, gap.Round(time.Millisecond))
	if refused.Load() > 64 { // NATS may need several elections, which is longer than calls are held
		t.Errorf("%d calls were refused, many more than were on their way", refused.Load())
	}
	until(t, 90*time.Second, "every accepted call is made", func() error { return seen.lackOf(accepted) })
	t.Logf("NATS: all were made %s after the death, %d of them more than once", time.Since(killed).Round(time.Millisecond), seen.twice())
	stop()
	again, end := runQueue(t, sender, 3, seen) // a platform that starts while a member is away
	defer end()
	if err := again.Enqueue(ctx, call("last")); err != nil {
		t.Errorf("a call with a member away: %v", err)
	}
	until(t, 60*time.Second, "a call of a queue that was opened with a member away", func() error { return seen.lackOf(map[string]bool{"last": true}) })
	victim.start()
	victim.ready()
	until(t, 90*time.Second, "three copies again", func() error { _, _, err := all.whole(ctx, sender); return err })
}

func runQueue(t *testing.T, m *member, replicas int, h http.Handler) (*async.Queue, func()) {
	t.Helper()
	q, err := async.New(async.Config{
		URL: "nats://" + m.c.NATSToken + "@" + m.c.NATS, Handler: h, Replicas: replicas, AckWait: 3 * time.Second,
		Retry: func(types.NamespacedName) async.Retry { return async.Retry{Attempts: 1000, Max: time.Second} },
		Log:   slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	return q, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

func call(id string) async.Call {
	return async.Call{ID: id, Function: types.NamespacedName{Namespace: "openfaas-fn", Name: "later"}, Method: http.MethodPost, Body: []byte(id), Start: time.Now()}
}

// seen counts calls by their ids.
type seen struct {
	mu    sync.Mutex
	calls map[string]int
}

func newSeen() *seen { return &seen{calls: map[string]int{}} }

func (s *seen) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[r.Header.Get("X-Call-Id")]++
}

func (s *seen) lack(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) < n {
		return fmt.Errorf("%d of %d were made", len(s.calls), n)
	}
	return nil
}

func (s *seen) lackOf(ids map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range ids {
		if s.calls[id] == 0 {
			return fmt.Errorf("%s was not made; %d of %d were", id, len(s.calls), len(ids))
		}
	}
	return nil
}

func (s *seen) twice() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c > 1 {
			n++
		}
	}
	return n
}
