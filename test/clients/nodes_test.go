package clients

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/apiserver"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/enroll"
	"github.com/podsnap/podsnap/controlplane/schedule"
	"github.com/podsnap/podsnap/controlplane/soft"
	"github.com/podsnap/podsnap/controlplane/store"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/nodeagent"
	"github.com/podsnap/podsnap/nodeagent/pressure"
	"github.com/podsnap/podsnap/nodeagent/runtime/fake"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watchedByNode are what the parts of a node beside its agent watch: the gateway,
// Ingresses, Services, names, policies and the ways to other nodes.
var watchedByNode = []*api.Resource{
	api.Nodes, api.Services, api.EndpointSlices, api.Functions, api.Deployments, api.NetworkPolicies, api.Namespaces, api.Ingresses, api.IngressClasses,
}

// TestNodesOverHTTP has node agents without machines join a control plane, each
// with a certificate of its own and over a connection of its own, and watch as
// much as nodes do: all become ready, none is lost, no stream is refused, although
// people have few, and none is told of another's heartbeats. HTTP_NODES says how many, for larger sizes by
// hand, and HTTP_NODES_FOR how long they are watched.
func TestNodesOverHTTP(t *testing.T) {
	n, hold := 20, 3*time.Second
	var err error
	if s := os.Getenv("HTTP_NODES"); s != "" {
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("HTTP_NODES_FOR"); s != "" {
		if hold, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	files := uint64(2*n + 4096)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: max(files, 20000)}); err != nil {
		t.Fatalf("open files for %d nodes: %v", n, err)
	}
	f := newFleet(t)
	begun, used := time.Now(), processorTime(t)
	f.join(n)
	await(t, 5*time.Minute, func() error {
		if ready := f.ready(); ready != n {
			return fmt.Errorf("%d of %d nodes are ready, %d streams are open", ready, n, f.open.Load())
		}
		return nil
	})
	ready, registered := time.Since(begun), processorTime(t)-used
	await(t, 5*time.Minute, func() error {
		if open := f.open.Load(); open != int64(n*len(watchedByNode)) {
			return fmt.Errorf("%d streams are open, want %d for each of %d nodes", open, len(watchedByNode), n)
		}
		return nil
	})
	used = processorTime(t)
	lost := f.lostWithin(hold)
	used = processorTime(t) - used
	if lost != 0 {
		t.Errorf("%d nodes were lost", lost)
	}
	if open := f.open.Load(); open != int64(n*len(watchedByNode)) {
		t.Errorf("%d streams are still open", open)
	}
	if r := f.refused.Load(); r != 0 {
		t.Errorf("%d streams were refused", r)
	}
	f.tellNobodyOfHeartbeats(n)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%d nodes: ready after %s and %.1f s of processors; %d streams; %.2f processors; %d MB of heap, %d MB of stacks, %d goroutines",
		n, ready, registered.Seconds(), f.open.Load(), used.Seconds()/hold.Seconds(), m.HeapAlloc>>20, m.StackInuse>>20, runtime.NumGoroutine())
}

// fleet is a control plane and nodes of it, in one process.
type fleet struct {
	t       *testing.T
	ctx     context.Context // of what it runs
	objects api.Objects
	url     string
	roots   *x509.CertPool
	token   join.Token
	dir     string
	wg      sync.WaitGroup

	open, refused atomic.Int64 // streams

	mu    sync.Mutex
	marks map[string]map[string]int // by mark and node: of how many changes of nodes it had been told by then
}

// marked is a label of a node by which those who follow nodes say how far they are.
const marked = "test.podsnap.dev/mark"

// tellNobodyOfHeartbeats has two nodes' statuses change between two changes of a label:
// every node is told of the second label next after the first, and whoever is no node
// of everything.
func (f *fleet) tellNobodyOfHeartbeats(n int) {
	f.t.Helper()
	const beats = 10
	w, err := f.objects.Watch(f.ctx, api.Nodes, api.WatchOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	defer w.Stop()
	f.mark("first", n)
	for i := range beats {
		if _, err := api.Mutate(f.ctx, f.objects, api.Nodes, "", fmt.Sprintf("node-%05d", i%2), api.UpdateOptions{Subresource: "status"}, func(n *corev1.Node) (bool, error) {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{fmt.Sprint("i", i)}})
			for j := range n.Status.Conditions {
				n.Status.Conditions[j].LastHeartbeatTime = metav1.Now()
			}
			return true, nil
		}); err != nil {
			f.t.Fatal(err)
		}
	}
	f.mark("second", n)
	f.mu.Lock()
	for node, first := range f.marks["first"] {
		if told := f.marks["second"][node] - first; told != 1 {
			f.t.Errorf("%s was told %d changes of nodes, want that of the label alone", node, told)
		}
	}
	f.mu.Unlock()
	seen := 0
	for e := range w.Events() {
		o, ok := e.Object.(*corev1.Node)
		if ok && e.Type == api.Modified && o.Labels[marked] == "first" {
			seen++
		}
		if ok && o.Labels[marked] == "second" {
			break
		}
	}
	if seen < beats/2 { // those of the marked node; the first of them may be the label's own
		f.t.Errorf("the administrator was told %d changes, want %d at least", seen, beats/2)
	}
}

// mark sets the label of the first node, and returns when all nodes have been told.
func (f *fleet) mark(value string, n int) {
	f.t.Helper()
	if _, err := api.Mutate(f.ctx, f.objects, api.Nodes, "", "node-00000", api.UpdateOptions{}, func(n *corev1.Node) (bool, error) {
		metav1.SetMetaDataLabel(&n.ObjectMeta, marked, value)
		return true, nil
	}); err != nil {
		f.t.Fatal(err)
	}
	await(f.t, time.Minute, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if told := len(f.marks[value]); told != n {
			return fmt.Errorf("%d of %d nodes were told of the label %q", told, n, value)
		}
		return nil
	})
}

// count reads what a node is told of nodes.
func (f *fleet) count(node string, from io.Reader) {
	in, told := bufio.NewReader(from), 0
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		if !bytes.HasPrefix(line, []byte(`{"type":"MODIFIED"`)) {
			continue
		}
		told++
		_, rest, ok := bytes.Cut(line, []byte(`"`+marked+`":"`))
		value, _, _ := bytes.Cut(rest, []byte(`"`))
		if !ok {
			continue
		}
		f.mu.Lock()
		if f.marks[string(value)] == nil {
			f.marks[string(value)] = map[string]int{}
		}
		if _, had := f.marks[string(value)][node]; !had {
			f.marks[string(value)][node] = told
		}
		f.mu.Unlock()
	}
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, roots: x509.NewCertPool(), dir: t.TempDir(), marks: map[string]map[string]int{}}
	etcd := newEtcd(t)
	ctx, cancel := context.WithCancel(context.Background())
	f.ctx = ctx
	durable, err := store.New(store.Config{Client: etcd, CompactEvery: -1, Admit: admission.Admit})
	if err != nil {
		t.Fatal(err)
	}
	front, err := soft.New(soft.Config{Durable: durable, Kinds: soft.ReplicaKinds(), Soft: soft.Replicas, Passing: soft.IsRenewal, Admit: admission.Admit})
	if err != nil {
		t.Fatal(err)
	}
	f.objects = front
	controllers := controller.New(controller.Config{Objects: front})
	for _, run := range []func(context.Context) error{durable.Run, front.Run, controllers.Run} {
		f.wg.Go(func() { _ = run(ctx) })
	}
	t.Cleanup(func() { cancel(); f.wg.Wait() })
	await(t, time.Minute, func() error {
		_, err := front.Get(ctx, api.Namespaces, "", api.SystemNamespace)
		return err
	})
	f.serve()
	return f
}

// serve opens the API's door as a server does, and makes a token for all nodes.
func (f *fleet) serve() {
	f.t.Helper()
	ca, key := newAuthority(f.t)
	f.roots.AddCert(ca)
	desk := enroll.New(enroll.Config{Objects: f.objects, Authority: enroll.Authority{Certificate: ca, Key: key}})
	h, err := apiserver.New(apiserver.Config{
		Objects: f.objects, Gate: &access.Gate{Objects: f.objects, Token: "secret"}, MaxStreams: 1,
		Open: map[string]http.Handler{access.JoinPath: http.HandlerFunc(desk.Join)},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	own := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{join.ServerName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, own, ca, &serverKey.PublicKey, key)
	if err != nil {
		f.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return f.ctx },
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der, ca.Raw}, PrivateKey: serverKey}},
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: f.roots,
		},
	}
	f.url = "https://" + l.Addr().String()
	f.wg.Go(func() { _ = srv.ServeTLS(l, "", "") })
	f.wg.Go(func() { <-f.ctx.Done(); srv.Close() })
	f.token = join.NewToken(ca.Raw)
	if _, err := api.Create(f.ctx, f.objects, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.SystemNamespace, Name: join.SecretPrefix + f.token.ID}, Type: join.SecretType,
		Data: map[string][]byte{
			join.KeyHash: []byte(f.token.Hash()), join.KeyReusable: []byte("true"),
			join.KeyExpires: []byte(time.Now().Add(time.Hour).UTC().Format(time.RFC3339)),
		},
	}); err != nil {
		f.t.Fatal(err)
	}
}

func newAuthority(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca, key
}

// join has n nodes join, some at a time.
func (f *fleet) join(n int) {
	f.t.Helper()
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error { return f.start(fmt.Sprintf("node-%05d", i)) })
	}
	if err := g.Wait(); err != nil {
		f.t.Fatal(err)
	}
}

// start is a node that joins, whose containers are only said to run.
func (f *fleet) start(name string) error {
	key, csr, err := join.NewKey()
	if err != nil {
		return err
	}
	a, err := join.Patiently(f.ctx, 2*time.Minute, slog.New(slog.DiscardHandler), func(ctx context.Context) (join.Answer, error) {
		return join.Join(ctx, f.url, f.token, "dev", name, csr)
	})
	if err != nil {
		return fmt.Errorf("join as %s: %w", name, err)
	}
	pair, err := tls.X509KeyPair(a.Certificate, key)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: join.NodeTransport(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: f.roots, ServerName: join.ServerName, Certificates: []tls.Certificate{pair},
	})}
	engine := fake.New()
	agent, err := nodeagent.New(nodeagent.Config{
		NodeName: name, Objects: remote.NewObjects(remote.Config{URL: f.url, Client: client}), Runtime: engine, Images: engine.Images(),
		StateDir: filepath.Join(f.dir, name), NodeIP: "192.0.2.1", PodCIDR: a.Settings.PodCIDR, MaxPods: 110, OnDisk: true,
		Capacity: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi")},
		Memory:   func() pressure.Memory { return pressure.Memory{Total: 16 << 30, Available: 16 << 30} },
		Dial:     func(context.Context, string, string) (net.Conn, error) { c, _ := net.Pipe(); return c, nil },
	})
	if err != nil {
		return err
	}
	f.wg.Go(func() { _ = agent.Run(f.ctx); client.CloseIdleConnections() })
	for _, r := range watchedByNode {
		f.wg.Go(func() { f.follow(client, name, r) })
	}
	return nil
}

// follow reads a watch and keeps nothing of it: the memory of a machine is for one
// copy of all objects, that of this process is not for as many as there are nodes.
func (f *fleet) follow(client *http.Client, name string, r *api.Resource) {
	path := "/apis/" + r.Group + "/" + r.Version
	if r.Group == "" {
		path = "/api/" + r.Version
	}
	for ctx := f.ctx; ctx.Err() == nil; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+path+"/"+r.Plural+"?watch=true", http.NoBody)
		if err != nil {
			f.t.Error(err)
			return
		}
		if resp, err := client.Do(req); err == nil {
			f.read(resp, name, r)
		}
		select { // as a mirror, which goes on when there is no connection
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (f *fleet) read(resp *http.Response, name string, r *api.Resource) {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		f.refused.Add(1)
		return
	}
	f.open.Add(1)
	defer f.open.Add(-1)
	if r == api.Nodes {
		f.count(name, resp.Body)
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
}

func (f *fleet) ready() (n int) {
	nodes, err := api.Items[*corev1.Node](f.ctx, f.objects, api.Nodes, api.ListOptions{})
	if err != nil {
		return 0
	}
	for _, o := range nodes {
		if schedule.Ready(o) {
			n++
		}
	}
	return n
}

// lostWithin counts the nodes that are not ready at some moment of a time.
func (f *fleet) lostWithin(d time.Duration) int {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, d)
	defer cancel()
	w, err := f.objects.Watch(ctx, api.Nodes, api.WatchOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	defer w.Stop()
	down := map[string]bool{}
	for e := range w.Events() {
		if n, ok := e.Object.(*corev1.Node); ok && e.Type == api.Modified && !schedule.Ready(n) {
			down[n.Name] = true
		}
	}
	return len(down)
}

// processorTime is what this process has used.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
