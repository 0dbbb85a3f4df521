package daemon

import (
	"context"
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
	"github.com/podsnap/podsnap/controlplane/address"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/apiserver"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/enroll"
	"github.com/podsnap/podsnap/controlplane/fleet"
	"github.com/podsnap/podsnap/controlplane/scheduler"
	"github.com/podsnap/podsnap/controlplane/soft"
	"github.com/podsnap/podsnap/controlplane/store"
	"github.com/podsnap/podsnap/controlplane/usage"
	"github.com/podsnap/podsnap/functions"
	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/gateway/async"
	"github.com/podsnap/podsnap/gateway/auth"
	"github.com/podsnap/podsnap/gateway/backlog"
	"github.com/podsnap/podsnap/gateway/dialect"
	"github.com/podsnap/podsnap/gateway/front"
	"github.com/podsnap/podsnap/internal/daemon/embedded"
	"github.com/podsnap/podsnap/internal/disposition"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/podsnap/podsnap/nodeagent"
	"github.com/podsnap/podsnap/nodeagent/dns"
	"github.com/podsnap/podsnap/nodeagent/engine"
	"github.com/podsnap/podsnap/nodeagent/pressure"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// platform is the running process: what its parts share.
type platform struct {
	c       Config
	log     *slog.Logger
	stack   *stack
	metrics *prometheus.Registry
	secrets secrets

	objects api.Objects
	node    *node
	usage   *usage.Sampler
	agent   atomic.Pointer[nodeagent.Agent] // the control plane runs before it
	front   *front.Server
	handler http.Handler // the gateway's

	ingressCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	addresses  *address.Allocator // of a server
	neighbours *neighbours        // of a server
}

type secrets struct {
	user, password, apiToken, natsToken string
	certificate                         tls.Certificate
	authority                           enroll.Authority
}

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
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer p.stack.stop()
	begin := p.start
	if c.Join != "" {
		begin = p.startWorker
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
	err = p.stack.wait(ctx)
	if c.TearDown != nil && c.TearDown() {
		err = errors.Join(err, p.tearDown(context.WithoutCancel(ctx)))
	}
	return err
}

// start brings the parts up in the order of their dependencies. The ports come
// first, so that one that is taken is told before anything runs.
func (p *platform) start(ctx context.Context) (err error) {
	begin := time.Now()
	doors := map[string]string{"listen": p.c.Listen, "metrics-listen": p.c.MetricsListen, "api-listen": p.c.APIListen}
	if p.c.TLSListen != "" {
		doors["tls-listen"] = p.c.TLSListen
	}
	ls, err := p.listen(ctx, doors)
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
	if err := p.startStore(ctx); err != nil {
		return err
	}
	fl, err := p.startControl(ctx)
	if err != nil {
		return err
	}
	reg, err := p.newRegistry()
	if err != nil {
		return err
	}
	n, err := enroll.Register(ctx, p.objects, p.c.NodeName, p.c.PodCIDR)
	if err != nil {
		return fmt.Errorf("this machine as a node: %w", err)
	}
	if p.c.PodCIDR != "" && p.c.PodCIDR != n.Spec.PodCIDR {
		p.log.Warn("--pod-cidr is not used: this node's pods have addresses of another network already", slog.String("pods", n.Spec.PodCIDR))
	}
	p.c.PodCIDR = n.Spec.PodCIDR
	if err := p.startNode(ctx, nodeConfig{registries: registries(&p.c, p.secrets), ip: p.c.NodeIP}); err != nil {
		return err
	}
	if err := p.startGateway(ctx, fl, reg, natsURL); err != nil {
		return err
	}
	if err := p.serve(ctx, ls, fl, reg); err != nil {
		return err
	}
	p.log.Debug("started", slog.Duration("took", time.Since(begin)))
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
		kid, err := newStoreChild(&p.c, addr, p.secrets.natsToken)
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

func (p *platform) startStore(ctx context.Context) error {
	client, err := store.Dial(p.c.Etcd, nil, p.log)
	if err != nil {
		return err
	}
	if p.addresses, err = newAddresses(&p.c, p.log); err != nil {
		client.Close()
		return err
	}
	s, err := store.New(store.Config{
		Client: client, Prefix: p.c.EtcdPrefix, Log: p.log, Metrics: p.metrics,
		Admit: p.addresses.Admit(admission.Admit),
	})
	if err != nil {
		client.Close()
		return err
	}
	p.stack.start(ctx, "store client", func(ctx context.Context) error {
		defer client.Close()
		return s.Run(ctx)
	})
	so, err := soft.New(soft.Config{
		Durable: s, Kinds: soft.ReplicaKinds(), Soft: soft.Replicas, Passing: soft.IsRenewal, Admit: admission.Admit, Log: p.log, Metrics: p.metrics,
	})
	if err != nil {
		return err
	}
	p.stack.start(ctx, "soft store", so.Run)
	p.objects = so
	p.stack.start(ctx, "addresses", func(ctx context.Context) error { return p.addresses.Run(ctx, so) })
	if err := p.newNeighbours(); err != nil {
		return err
	}
	asked, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := client.Get(asked, p.c.EtcdPrefix+"/ready"); err != nil && ctx.Err() == nil {
		return fmt.Errorf("etcd at %s does not answer: %w", strings.Join(p.c.Etcd, ", "), err)
	}
	return p.loaded(ctx, so.Ready())
}

// loaded waits until everything that is stored has been read, however much it
// is.
func (p *platform) loaded(ctx context.Context, ready <-chan struct{}) error {
	begin := time.Now()
	say := time.NewTicker(10 * time.Second)
	defer say.Stop()
	for {
		select {
		case <-ready:
			return nil
		case <-say.C:
			p.log.Info("reading what is stored", slog.Duration("since", time.Since(begin).Round(time.Second)))
		case err := <-p.stack.failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *platform) startControl(ctx context.Context) (*fleet.Fleet, error) {
	var fl *fleet.Fleet
	var err error
	p.usage, err = usage.New(usage.Config{Objects: p.objects, Agents: p.agents, Told: func(f types.NamespacedName) { fl.Look(f) }, Log: p.log})
	if err != nil {
		return nil, err
	}
	fl, err = fleet.New(fleet.Config{Objects: p.objects, Policy: policy, CPU: p.usage.CPU, Agents: p.agents, Log: p.log, Metrics: p.metrics})
	if err != nil {
		return nil, err
	}
	sched := scheduler.New(scheduler.Config{Objects: p.objects, Log: p.log, Metrics: p.metrics})
	controllers := controller.New(controller.Config{Objects: p.objects, Apply: functions.Apply, Place: sched.Place, Reserved: p.c.ports(), Log: p.log, Metrics: p.metrics})
	p.stack.start(ctx, "controllers", controllers.Run)
	p.stack.start(ctx, "scheduler", sched.Run)
	p.stack.start(ctx, "fleet", fl.Run)
	return fl, nil
}

func newAddresses(c *Config, log *slog.Logger) (*address.Allocator, error) {
	ac := address.Config{Log: log}
	var err error
	if ac.Pods, err = netip.ParsePrefix(c.ClusterCIDR); err != nil {
		return nil, err
	}
	if ac.Services, err = netip.ParsePrefix(c.ServiceCIDR); err != nil {
		return nil, err
	}
	return address.New(ac)
}

// policy reads how a function scales from its Deployment, which has the
// function's labels.
func policy(d *appsv1.Deployment) autoscale.Policy {
	n, _ := strconv.Atoi(d.Spec.Template.Annotations[api.AnnotationConcurrency]) // absent is 0: no limit
	return autoscale.Policy{Scale: functions.Scaling(d.Labels), Concurrency: n}
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
		ServiceCIDR: n.span.services, ClusterCIDR: n.span.pods, Log: p.log, Metrics: p.metrics,
	})
	if err != nil {
		p.log.Warn("pods find no names of the cluster, only those of the machine", slog.Any("reason", err))
	} else {
		clusterDNS = n.network.Gateway()
		p.stack.start(ctx, "names", names.Run)
	}
	agent, err := nodeagent.New(nodeagent.Config{
		ClusterDNS: clusterDNS,
		NodeName:   p.c.NodeName, Objects: p.objects, Runtime: run, Images: n.engine.Images(), Stats: run,
		Stalls: pressure.Stalls, StateDir: p.c.path("node"), PodCIDR: p.c.PodCIDR, NodeIP: nc.ip, Port: nc.port, Version: p.c.Version, Recorder: rec, Log: p.log, Metrics: p.metrics,
	})
	if err != nil {
		return err
	}
	p.agent.Store(agent)
	p.stack.start(ctx, "node agent", agent.Run)
	if p.usage != nil {
		p.stack.start(ctx, "use of cpu", p.usage.Run) // it asks the agent
	}
	return nil
}

func (p *platform) startGateway(ctx context.Context, capacity api.Capacity, reg *registry.Registry, natsURL string) error {
	var queue *async.Queue
	looks := lookInto(func() *async.Queue { return queue })
	waiting := backlog.New(backlog.Config{Capacity: capacity, Gateway: p.c.NodeName, Pending: looks.Pending, Log: p.log})
	g, err := gateway.New(gateway.Config{
		Objects: p.objects, Capacity: capacity, Agents: p.agents, Name: p.c.NodeName,
		Enqueue: func(ctx context.Context, c dialect.AsyncCall) error {
			err := queue.Enqueue(ctx, async.Call{
				ID: c.ID, Function: c.Function, Method: c.Method, Path: c.Path, Query: c.Query,
				Header: c.Header, Body: c.Body, Callback: c.CallbackURL, Start: c.Start,
			})
			waiting.Kick()
			return err
		},
		Queue:   looks,
		Digest:  digests(reg),
		Auth:    auth.Config{Disabled: p.c.NoAuth, User: p.secrets.user, Password: p.secrets.password},
		Version: openfaas.Version{Release: p.c.Version, SHA: p.c.Revision},
		Extra:   map[string]http.Handler{"/v2/": reg}, Secrets: true,
		Timeout: p.c.Timeout, MaxBody: p.c.MaxBody, MaxAsyncBody: p.c.MaxAsyncBody, Log: p.log, Metrics: p.metrics,
	})
	if err != nil {
		return err
	}
	queue, err = async.New(async.Config{URL: natsURL, Handler: g.Invoker(), Retry: p.retry, Replicas: p.c.copies(), Log: p.log, Metrics: p.metrics})
	if err != nil {
		return err
	}
	p.stack.start(ctx, "registry", func(ctx context.Context) error {
		defer reg.Close()
		return reg.Run(ctx)
	})
	p.stack.start(ctx, "gateway", g.Run)
	p.stack.start(ctx, "asynchronous calls", queue.Run)
	p.stack.start(ctx, "backlog", waiting.Run)
	p.front, p.handler, p.ingressCertificate = g.Front(), g.Handler(), g.Certificate
	return nil
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
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			out.closeUnless(&err)
			return nil, fmt.Errorf("--%s %s: %w; is the platform running already, or something else on that port?", flag, addr, err)
		}
		out[flag] = l
	}
	return out, nil
}

// retry reads from a function's annotations when its calls are tried again.
func (p *platform) retry(k types.NamespacedName) async.Retry {
	ctx := context.Background() //nolint:forbidigo // reads a cache
	f, err := api.Get[*api.Function](ctx, p.objects, api.Functions, k.Namespace, k.Name)
	if err != nil {
		return async.Retry{}
	}
	return async.ParseRetry(f.Spec.Annotations)
}

// serve opens the doors.
func (p *platform) serve(ctx context.Context, ls listeners, fl *fleet.Fleet, reg *registry.Registry) error {
	beside, open := p.forNodes(fl, reg)
	apiServer, err := apiserver.New(apiserver.Config{
		Objects: p.objects, Agents: p.agents, Token: p.secrets.apiToken, Version: p.c.Version, Log: p.log, Metrics: p.metrics,
		Beside: beside, Open: open,
	})
	if err != nil {
		return err
	}
	nodes := x509.NewCertPool()
	nodes.AddCert(p.secrets.authority.Certificate)
	debug, err := debugListener(ctx, p.c.run("debug.sock"))
	if err != nil {
		return err
	}
	p.serveOne(ctx, "debug listener", debug, &http.Server{Handler: debugHandler(), ReadHeaderTimeout: 5 * time.Second})
	p.serveOne(ctx, "metrics listener", ls["metrics-listen"], &http.Server{Handler: metricsHandler(p.metrics), ReadHeaderTimeout: 5 * time.Second})
	p.serveOne(ctx, "API listener", ls["api-listen"], &http.Server{
		Handler: apiServer, ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{p.secrets.certificate},
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: nodes,
		},
	})
	p.serveInside(ctx)
	if l := ls["tls-listen"]; l != nil {
		p.serveMore(ctx, "gateway listener for TLS", tls.NewListener(l, &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: p.ingressCertificate, NextProtos: []string{"h2", "http/1.1"},
		}))
	}
	p.serveDoor(ctx, "gateway listener", ls["listen"], p.front.Serve, p.front, 30*time.Second)
	return nil
}

// serveInside opens the gateway to the node's pods, at the address that the names
// of functions have for them.
func (p *platform) serveInside(ctx context.Context) {
	addr := netip.AddrPortFrom(p.node.network.Gateway(), uint16(api.FunctionPort)).String()
	if covers(p.c.Listen, addr) {
		return // pods reach it at its own address
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		p.log.Warn("pods do not reach the gateway", slog.Any("error", err))
		return
	}
	p.serveMore(ctx, "gateway listener for pods", l)
}

// serveMore opens another door of the gateway, which ends with the first one.
func (p *platform) serveMore(ctx context.Context, name string, l net.Listener) {
	p.stack.start(ctx, name, func(ctx context.Context) error {
		end := context.AfterFunc(ctx, func() { l.Close() })
		defer end()
		err := p.front.Serve(l)
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
	_, want, err := net.SplitHostPort(addr)
	ip, parseErr := netip.ParseAddr(host)
	return err == nil && port == want && (host == "" || parseErr == nil && ip.IsUnspecified())
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
