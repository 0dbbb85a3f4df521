package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/builder/registry"
	"github.com/podsnap/podsnap/controlplane/enroll"
	"github.com/podsnap/podsnap/controlplane/leader"
	"github.com/podsnap/podsnap/controlplane/store"
	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/gateway/async"
	"github.com/podsnap/podsnap/gateway/auth"
	"github.com/podsnap/podsnap/gateway/dialect"
	"github.com/podsnap/podsnap/internal/assets"
	"github.com/podsnap/podsnap/internal/awake"
	"github.com/podsnap/podsnap/internal/daemon/embedded"
	"github.com/podsnap/podsnap/internal/disposition"
	"github.com/podsnap/podsnap/internal/doze"
	"github.com/podsnap/podsnap/internal/handover"
	"github.com/podsnap/podsnap/internal/headroom"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/podsnap/podsnap/internal/skew"
	"github.com/podsnap/podsnap/nodeagent"
	"github.com/podsnap/podsnap/nodeagent/dns"
	"github.com/podsnap/podsnap/nodeagent/engine"
	"github.com/podsnap/podsnap/nodeagent/pressure"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// platform is the running process: what its parts share.
type platform struct {
	c       Config
	log     *slog.Logger
	stack   *stack
	metrics *prometheus.Registry
	secrets secrets
	sockets *handover.Sockets

	objects api.Objects
	tokens  api.Tokens
	node    *node
	agent   atomic.Pointer[nodeagent.Agent] // the control plane runs before it
	gateway *gateway.Gateway
	called  func(time.Time) // told of each call of a function; nil: nobody is

	control    atomic.Pointer[control] // of a server that leads, or is the only one
	neighbours *neighbours             // of a server
}

type secrets struct {
	user, password, apiToken, natsToken string
	natsAdmin                           string // of who changes NATS' members; "" where there is one server
	certificate                         tls.Certificate
	authority                           enroll.Authority
	tokenKey                            *ecdsa.PrivateKey // signs tokens of service accounts
}

// maxLate is how late the timers of a server or node without work may be. It is
// short, since a call may come at any moment.
const maxLate = time.Millisecond

// Run runs the platform until ctx is done. Containers go on after that unless
// c.TearDown says otherwise.
func Run(ctx context.Context, c Config) error {
	disposition.Reset() // containerd, and so all containers, inherit what is ignored
	if err := c.fill(); err != nil {
		return err
	}
	if err := c.dirs(); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	unlock, err := lock(c.path("lock"))
	if err != nil {
		return err
	}
	defer unlock()
	p := &platform{c: c, log: c.Log, stack: newStack(c.Log), metrics: prometheus.NewRegistry()}
	p.sockets = handover.Open(ctx, handover.Config{Dir: c.RunDir, Program: assets.SocketHolder, Log: c.Log})
	defer p.endSockets(ctx)
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer p.stack.stop()
	p.stack.start(ctx, "sockets", p.sockets.Run)
	if !c.NoAwake {
		w := awake.New(awake.Config{Log: c.Log})
		p.called = w.Call
		p.stack.start(ctx, "awake", w.Run)
	}
	begin := p.start
	switch {
	case c.Join != "":
		begin = p.startWorker
	case c.shared():
		begin = p.startShared
	}
	if err := begin(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to end while starting
		}
		return err
	}
	if c.Join != "" {
		c.Log.Info("the node is up", slog.String("node", c.NodeName), slog.String("server", c.Join), slog.String("gateway", "http://"+c.Listen), slog.String("metrics", "http://"+c.MetricsListen+"/metrics"))
	} else {
		c.Log.Info("the platform is up", slog.String("gateway", "http://"+c.Listen), slog.String("api", "https://"+c.APIListen), slog.String("metrics", "http://"+c.MetricsListen+"/metrics"))
	}
	// What the start alone needed goes back to the machine.
	trim := time.AfterFunc(embedded.Settled, embedded.Trim)
	defer trim.Stop()
	defer headroom.Run().Stop()
	p.stack.start(ctx, "sleep", func(ctx context.Context) error { doze.Run(ctx, maxLate); return nil })
	err = p.stack.wait(ctx)
	if p.forGood() {
		return errors.Join(err, p.tearDown(context.WithoutCancel(ctx)))
	}
	p.stack.stopOnly(leadership) // another server goes on while this one ends
	// Asynchronous calls take long, and nobody waits for them: the doors are open
	// until those in flight are made.
	p.stack.stopOnly(formerQueues)
	if k := p.control.Load(); k != nil {
		k.queue.Rest()
	}
	return err
}

// start brings up a server whose stores are its own, in the order in which parts
// need each other. The ports come first, so that one that is taken is told before
// anything runs.
func (p *platform) start(ctx context.Context) (err error) {
	begin := time.Now()
	ls, err := p.listen(ctx, p.c.serverDoors())
	if err != nil {
		return err
	}
	defer ls.closeUnless(&err)
	if err := p.readSecrets(); err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	natsURL, err := p.startChildren(ctx)
	if err != nil {
		return err
	}
	k, err := p.startControl(ctx)
	if err != nil {
		return err
	}
	reg, err := p.newRegistry()
	if err != nil {
		return err
	}
	if err := p.register(ctx); err != nil {
		return err
	}
	if err := p.startNode(ctx, nodeConfig{registries: registries(&p.c, p.secrets), ip: p.c.NodeIP}); err != nil {
		return err
	}
	p.stack.start(ctx, "use of cpu", k.usage.Run) // it asks the agent
	if err := p.newGateway(k.fleet, reg, nil); err != nil {
		return err
	}
	if err := k.newQueue(natsURL, p.gateway); err != nil {
		return err
	}
	p.startGateway(ctx, reg)
	k.startQueue(ctx)
	if err := k.newAPI(p, reg); err != nil {
		return err
	}
	p.serveAPI(ctx, ls["api-listen"], k.api)
	p.serveAPIInside(ctx, k.api)
	p.stack.start(ctx, "service kubernetes", func(ctx context.Context) error { return k.keepService(ctx, p.apiEndpoints) })
	if err := p.serve(ctx, ls, p.gather); err != nil {
		return err
	}
	p.log.Debug("started", slog.Duration("took", time.Since(begin)))
	return nil
}

// startControl brings up the control plane of a server that is the only one.
func (p *platform) startControl(ctx context.Context) (*control, error) {
	client, err := p.dialStore(ctx)
	if err != nil {
		return nil, err
	}
	k := &control{c: &p.c, log: p.log, stack: p.stack, metrics: p.metrics, secrets: &p.secrets}
	if err := k.startStore(ctx, client, leader.Term{}); err != nil {
		return nil, err
	}
	p.objects, p.tokens = k.objects, k.accounts
	if err := p.newNeighbours(); err != nil {
		return nil, err
	}
	if err := k.startDeciding(ctx, p.agents); err != nil {
		return nil, err
	}
	p.control.Store(k)
	return k, nil
}

// dialStore makes etcd's client, which ends with the stack.
func (p *platform) dialStore(ctx context.Context) (*store.Client, error) {
	secure, err := p.c.etcdTLS()
	if err != nil {
		return nil, err
	}
	client, err := store.Dial(p.c.Etcd, secure, p.log)
	if err != nil {
		return nil, err
	}
	p.stack.start(ctx, "store client", func(ctx context.Context) error {
		<-ctx.Done()
		return client.Close()
	})
	return client, nil
}

// register makes this machine a node.
func (p *platform) register(ctx context.Context) error {
	own, err := parseNetworks(p.c.PodCIDR)
	if err != nil {
		return err
	}
	all, err := parseNetworks(p.c.ClusterCIDR)
	if err != nil {
		return err
	}
	n, err := enroll.Register(ctx, p.objects, p.c.NodeName, own.list())
	if err == nil && all.six.IsValid() && len(n.Spec.PodCIDRs) < 2 { // of a time when the cluster had one family
		n, err = api.Update(ctx, p.objects, n.DeepCopy(), api.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("this machine as a node: %w", err)
	}
	pods := strings.Join(n.Spec.PodCIDRs, ",")
	if p.c.PodCIDR != "" && !strings.HasPrefix(pods, p.c.PodCIDR) {
		p.log.Warn("--pod-cidr is not used: this node's pods have addresses of another network already", slog.String("pods", pods))
	}
	p.c.PodCIDR = pods
	return nil
}

func (p *platform) readSecrets() (err error) {
	s := &p.secrets
	s.user = "admin"
	if err := writeFile(p.c.path("auth", "basic-auth-user"), s.user+"\n"); err != nil {
		return err
	}
	if s.password, err = p.c.secret("basic-auth-password"); err != nil {
		return err
	}
	if s.natsToken, err = p.c.secret("nats-token"); err != nil {
		return err
	}
	if s.apiToken, err = p.c.secret("api-token"); err != nil {
		return err
	}
	var ca []byte
	if s.certificate, ca, err = p.c.certificate(); err != nil {
		return err
	}
	crt, key, _, err := p.c.authority()
	if err != nil {
		return err
	}
	if s.tokenKey, err = p.c.tokenKey(); err != nil {
		return fmt.Errorf("the key of service accounts: %w", err)
	}
	s.authority = enroll.Authority{Certificate: crt, Key: key}
	return writeFile(p.c.path("kubeconfig"), kubeconfig(reach(p.c.APIListen), s.apiToken, ca))
}

// startChildren starts the store and containerd, unless those of somebody else
// are used, and waits until they answer.
func (p *platform) startChildren(ctx context.Context) (natsURL string, err error) {
	natsURL = p.c.NATS
	var kids []*child
	if len(p.c.Etcd) == 0 || p.c.NATS == "" {
		addr, err := freeAddr()
		if err != nil {
			return "", err
		}
		kid, err := newStoreChild(&p.c, addr, p.secrets.natsToken, p.secrets.natsAdmin)
		if err != nil {
			return "", err
		}
		kids = append(kids, kid)
		if natsURL == "" {
			natsURL = "nats://" + p.secrets.natsToken + "@" + addr
		}
	}
	if len(p.c.Etcd) == 0 {
		p.c.Etcd = []string{embedded.EtcdEndpoint(p.c.run("etcd.sock"))}
	}
	if p.c.Containerd == "" {
		kid, socket, err := newContainerdChild(&p.c) //nolint:contextcheck // the process ends by its supervisor
		if err != nil {
			return "", err
		}
		p.c.Containerd = socket
		kids = append(kids, kid)
	}
	for _, k := range kids {
		p.stack.start(ctx, k.name, k.run)
	}
	for _, k := range kids {
		if err := k.wait(ctx); err != nil {
			return "", err
		}
	}
	return natsURL, nil
}

// nodeConfig is what differs between a server's node and another one.
type nodeConfig struct {
	registries engine.Registries
	ip         string // "" is the machine's first address
	port       int32  // of the agent; 0: it is reached in another way
}

func (p *platform) startNode(ctx context.Context, nc nodeConfig) error {
	if err := writeFile(p.c.path("node", "pod-cidr"), p.c.PodCIDR+"\n"); err != nil { // for Stop
		return err
	}
	n, err := newNode(ctx, &p.c, p.objects, p.log, p.metrics, nc.registries)
	if err != nil {
		return err
	}
	p.node = n
	rec := record.New(record.Config{Objects: p.objects, Component: "nodeagent", Host: p.c.NodeName, Log: p.log})
	n.services.OnRefused(func(pod *corev1.Pod, reasons []string) {
		rec.Eventf(pod, corev1.EventTypeWarning, "HostPortUnavailable", "the node does not lead to the pod: %s", strings.Join(reasons, "; "))
	})
	n.start(ctx, p.stack)
	p.stack.start(ctx, "other nodes", func(ctx context.Context) error { return meet(ctx, p.objects, p.c.NodeName, n.network, p.log) })
	run := n.runtime()
	importArchives(ctx, n.engine.Images(), p.c.path("images"), p.log)
	p.stack.start(ctx, "events", rec.Run)
	var clusterDNS netip.Addr
	names, err := dns.New(ctx, dns.Config{
		Objects: p.objects, Listen: netip.AddrPortFrom(n.network.Gateway(), 53), Gateway: n.network.Gateway(),
		ServiceCIDR: n.span.services.four, ClusterCIDR: n.span.pods.four, Log: p.log, Metrics: p.metrics,
		Gateway6: n.network.Gateway6(), ServiceCIDR6: n.span.services.six, ClusterCIDR6: n.span.pods.six,
	})
	if err != nil {
		p.log.Warn("pods find no names of the cluster, only those of the machine", slog.Any("reason", err))
	} else {
		clusterDNS = n.network.Gateway()
		p.stack.start(ctx, "names", names.Run)
	}
	six := ""
	if n.span.pods.six.IsValid() {
		six = otherAddress(n.span.pods.six)
	}
	static, err := p.static(rec)
	if err != nil {
		return err
	}
	agent, err := nodeagent.New(nodeagent.Config{
		Static:  static,
		NodeIP6: six, PodCIDR6: text(n.span.own.six), Tokens: p.tokens, APIServer: apiService(n.span.services.four),
		ClusterDNS: clusterDNS, Guard: n.policies.Guard,
		NodeName: p.c.NodeName, Objects: p.objects, Runtime: run, Images: n.engine.Images(), Stats: run,
		Stalls: pressure.Stalls, StateDir: p.c.path("node"), PodCIDR: n.span.own.four.String(), NodeIP: nc.ip, Port: nc.port, Version: p.c.Version, RuntimeVersion: n.engine.Version(), Recorder: rec, Log: p.log, Metrics: p.metrics,
	})
	if err != nil {
		return err
	}
	p.agent.Store(agent)
	p.stack.start(ctx, "node agent", agent.Run)
	return nil
}

// newGateway makes the gateway of a server. manage answers with what serves what
// it does not, at the moment; nil is the gateway itself, always.
func (p *platform) newGateway(capacity api.Capacity, reg *registry.Registry, manage func() http.Handler) (err error) {
	p.gateway, err = gateway.New(gateway.Config{
		Objects: p.objects, Capacity: capacity, Agents: p.agents, Name: p.c.NodeName, Manage: manage,
		Enqueue: func(ctx context.Context, c dialect.AsyncCall) error {
			k := p.control.Load()
			if k == nil {
				return errNotLeading()
			}
			err := k.queue.Enqueue(ctx, async.Call{
				ID: c.ID, Function: c.Function, Method: c.Method, Path: c.Path, Query: c.Query,
				Header: c.Header, Body: c.Body, Callback: c.CallbackURL, Start: c.Start,
			})
			k.waiting.Kick()
			return err
		},
		Queue: lookInto(func() (*async.Queue, error) {
			if k := p.control.Load(); k != nil {
				return k.queue, nil
			}
			return nil, errNotLeading()
		}),
		Digest:  digests(reg),
		Auth:    auth.Config{Disabled: p.c.NoAuth, User: p.secrets.user, Password: p.secrets.password},
		Version: openfaas.Version{Release: p.c.Version, SHA: p.c.Revision},
		Extra:   map[string]http.Handler{"/v2/": reg}, Secrets: true,
		Timeout: p.c.Timeout, MaxBody: p.c.MaxBody, MaxAsyncBody: p.c.MaxAsyncBody, MaxConns: p.c.MaxConns, MaxConnsAddress: p.c.MaxConnsAddress,
		Called: p.called, Leave: p.leave, Log: p.log, Metrics: p.metrics,
	})
	return err
}

// errNotLeading is for what only a leader does, in the moments in which that
// changes.
func errNotLeading() error {
	return apierrors.NewServiceUnavailable("another server leads now; please try again")
}

func (p *platform) startGateway(ctx context.Context, reg *registry.Registry) {
	p.stack.start(ctx, "registry", func(ctx context.Context) error {
		defer reg.Close()
		return reg.Run(ctx)
	})
	p.stack.start(ctx, "gateway", p.gateway.Run)
}

// listeners are doors that are open, by the flags that say where.
type listeners map[string]net.Listener

// closeUnless closes them when a start has failed.
func (ls listeners) closeUnless(failed *error) {
	if *failed == nil {
		return
	}
	for _, l := range ls {
		l.Close()
	}
}

func (p *platform) listen(ctx context.Context, addrs map[string]string) (listeners, error) {
	out := listeners{}
	for flag, addr := range addrs {
		l, err := p.open(ctx, flag, addr)
		if err != nil {
			out.closeUnless(&err)
			return nil, fmt.Errorf("--%s %s: %w; is the platform running already, or something else on that port?", flag, addr, err)
		}
		out[flag] = l
	}
	return out, nil
}

// adoptWithin is how long clients wait at the doors for the node's agent.
const adoptWithin = 10 * time.Second

// adopted waits until the agent knows what runs here: until then replicas that go
// on may seem to be lost.
func (p *platform) adopted(ctx context.Context) {
	t := time.NewTimer(adoptWithin)
	defer t.Stop()
	select {
	case <-p.agent.Load().Adopted():
	case <-ctx.Done():
	case <-t.C:
		p.log.Warn("the agent does not know yet what runs on this node")
	}
}

// serve opens the doors.
func (p *platform) serve(ctx context.Context, ls listeners, metrics func() prometheus.Gatherer) error {
	p.adopted(ctx)
	debug, err := debugListener(ctx, p.c.run("debug.sock"))
	if err != nil {
		return err
	}
	p.serveOne(ctx, "debug listener", debug, &http.Server{Handler: debugHandler(), ReadHeaderTimeout: 5 * time.Second})
	p.serveOne(ctx, "metrics listener", ls["metrics-listen"], &http.Server{Handler: metricsHandler(metrics), ReadHeaderTimeout: 5 * time.Second})
	p.serveInside(ctx)
	p.serveGateway(ctx, ls)
	return nil
}

// gather is the metrics of a process of which all parts last as long.
func (p *platform) gather() prometheus.Gatherer { return p.metrics }

func (p *platform) serveAPI(ctx context.Context, l net.Listener, h http.Handler) {
	nodes := x509.NewCertPool()
	nodes.AddCert(p.secrets.authority.Certificate)
	p.serveOne(ctx, "API listener", l, &http.Server{
		Handler: versioned(h, skew.Server, p.c.Version, skew.ToServer), ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{p.secrets.certificate},
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: nodes,
		},
	})
}

func (p *platform) serveGateway(ctx context.Context, ls listeners) {
	if l := ls["tls-listen"]; l != nil {
		p.serveMore(ctx, "gateway listener for TLS", tls.NewListener(l, &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: p.gateway.Certificate, NextProtos: []string{"h2", "http/1.1"},
		}))
	}
	front := p.gateway.Front()
	p.serveDoor(ctx, "gateway listener", ls["listen"], front.Serve, front, 30*time.Second)
	for _, c := range p.sockets.Idle() {
		front.Adopt(c)
	}
	p.sockets.Settle()
}

// serveInside opens the gateway to the node's pods, at the address that the names
// of functions have for them.
func (p *platform) serveInside(ctx context.Context) {
	for _, at := range []netip.Addr{p.node.network.Gateway(), p.node.network.Gateway6()} {
		addr := netip.AddrPortFrom(at, uint16(api.FunctionPort)).String()
		if !at.IsValid() || covers(p.c.Listen, addr) {
			continue // pods reach it at its own address
		}
		name := "inside"
		if at.Is6() {
			name = "inside6"
		}
		l, err := p.sockets.Listen(ctx, name, addr)
		if err != nil {
			p.log.Warn("pods do not reach the gateway", slog.Any("error", err))
			continue
		}
		p.serveMore(ctx, "gateway listener for pods at "+at.String(), l)
	}
}

// serveMore opens another door of the gateway, which ends with the first one.
func (p *platform) serveMore(ctx context.Context, name string, l net.Listener) {
	p.stack.start(ctx, name, func(ctx context.Context) error {
		end := context.AfterFunc(ctx, func() { l.Close() })
		defer end()
		err := p.gateway.Front().Serve(l)
		<-ctx.Done()
		return err
	})
}

// covers tells whether a listener of all addresses is one of addr too.
func covers(listen, addr string) bool {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	at, err := netip.ParseAddrPort(addr)
	ip, parseErr := netip.ParseAddr(host)
	every := host == "" || parseErr == nil && ip.IsUnspecified() && (ip.Is6() || at.Addr().Is4())
	return err == nil && port == strconv.Itoa(int(at.Port())) && every
}

// serveOne serves until its part of the stack is stopped, then lets what is in
// flight end within a second.
func (p *platform) serveOne(ctx context.Context, name string, l net.Listener, s *http.Server) {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.BaseContext = func(net.Listener) context.Context { return base }
	s.ErrorLog = slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	serve := s.Serve
	if s.TLSConfig != nil {
		serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
	}
	p.serveDoor(ctx, name, l, serve, ending{s, cancel}, time.Second)
}

// door is what ends serving: Shutdown lets what is in flight end, Close does
// not.
type door interface {
	Shutdown(context.Context) error
	Close() error
}

// ending is a server whose requests in flight Close ends too.
type ending struct {
	*http.Server
	cancel context.CancelFunc
}

// Shutdown implements door.
func (e ending) Shutdown(ctx context.Context) error {
	err := e.Server.Shutdown(ctx)
	if err == nil {
		e.cancel()
	}
	return err
}

// Close implements door.
func (e ending) Close() error {
	e.cancel()
	return e.Server.Close()
}

func (p *platform) serveDoor(ctx context.Context, name string, l net.Listener, serve func(net.Listener) error, d door, drain time.Duration) {
	p.stack.start(ctx, name, func(ctx context.Context) error {
		served := make(chan error, 1)
		go func() { served <- serve(l) }()
		select {
		case err := <-served:
			d.Close()
			return err
		case <-ctx.Done():
		}
		end, done := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer done()
		if err := d.Shutdown(end); err != nil {
			d.Close() // what is still in flight ends now
		}
		<-served
		return nil
	})
}

// tearDown ends every pod and removes what the node has made in the kernel.
func (p *platform) tearDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	p.log.Info("ending all pods")
	err := p.agent.Load().StopAll(ctx, 10*time.Second)
	// The agent must not start anything while its ground is taken away.
	p.stack.stopDownTo("node agent")
	return errors.Join(err, p.node.tearDown(ctx))
}

// reach is an address at which a client of this machine reaches a listener.
func reach(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// Stop ends the platform of a state directory, if it runs, and removes all that
// it has started on this machine. say tells a person what happens.
func Stop(ctx context.Context, c Config, say func(format string, a ...any)) error {
	if err := c.fill(); err != nil {
		return err
	}
	if _, err := os.Stat(c.path("lock")); errors.Is(err, os.ErrNotExist) {
		say("nothing was ever started with the state directory %s", c.StateDir)
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("two minutes are over"))
	defer cancel()
	was, err := end(ctx, c.path("lock"))
	if err != nil {
		return err
	}
	unlock, err := lock(c.path("lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if err := handover.Dismiss(ctx, c.RunDir); err != nil {
		return err
	}
	if err := cleanUp(ctx, c); err != nil {
		return fmt.Errorf("remove what the platform left: %w", err)
	}
	if err := os.RemoveAll(c.RunDir); err != nil {
		return err
	}
	if was {
		say("the platform has ended; its state stays in %s", c.StateDir)
	} else {
		say("the platform was not running; nothing of it is left but its state in %s", c.StateDir)
	}
	return nil
}
