// Package gateway is the front door: the OpenFaaS gateway API, the invocation
// of functions, metrics and a small web page, behind one http.Handler.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/functions"
	"github.com/podsnap/podsnap/gateway/auth"
	"github.com/podsnap/podsnap/gateway/dialect"
	"github.com/podsnap/podsnap/gateway/front"
	"github.com/podsnap/podsnap/gateway/history"
	"github.com/podsnap/podsnap/gateway/ingress"
	"github.com/podsnap/podsnap/gateway/invoke"
	"github.com/podsnap/podsnap/gateway/meter"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Config says what the gateway stands on. Objects and Capacity are required,
// and Auth has to name credentials or be disabled.
type Config struct {
	Objects  api.Objects
	Capacity api.Capacity
	// Agents finds a node's agent, for logs and usage; nil: those are 501.
	Agents func(ctx context.Context, node string) (api.Agent, error)
	// Enqueue stores an asynchronous call and returns when it is safe; nil: 501.
	Enqueue func(context.Context, dialect.AsyncCall) error
	// Queue looks into that queue.
	Queue dialect.Queue
	// Digest is the digest that an image's name has now, "" when unknown. nil:
	// images are not pinned at the deploy.
	Digest func(ctx context.Context, image string) string
	Auth   auth.Config

	Name     string           // of this gateway, different from every other one's; "" is the host's name
	Provider string           // in /system/info; "" is "podsnap"
	Version  openfaas.Version // of the platform
	// Manage answers with what serves everything but invocations, asynchronous
	// ones included, at the moment: it leads to a gateway that can. A nil handler
	// is this one itself, and nil is that always.
	Manage func() http.Handler
	Extra  map[string]http.Handler // more paths, such as "/v2/", by prefix; they see to their own authentication
	// Secrets says that this gateway may read Secrets: it then has the
	// certificates of Ingresses.
	Secrets bool

	Timeout      time.Duration // of an invocation when the function says nothing; 0 is 60 s
	ColdStart    time.Duration // the least time that a request waits for a replica; 0 is 30 s
	MaxQueue     int           // requests that may wait for one function; 0 is 10,000
	MaxBody      int64         // bytes of an invocation's body; 0 is 256 MiB
	MaxAsyncBody int64         // bytes of an asynchronous call's body; 0 is 1 MiB
	Drain        time.Duration // the longest wait for what is in flight at the end; 0 is 30 s

	MaxConns        int // connections of clients; 0 is 16,384
	MaxConnsAddress int // of them from one address; 0 is 8,192

	// Called is told of each call of a function: see invoke.Config.
	Called func(time.Time)
	// Leave takes a connection that rests when the gateway ends: see front.Config.
	Leave func(net.Conn) bool

	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

func (c *Config) setDefaults() error {
	if c.Objects == nil || c.Capacity == nil {
		return errors.New("gateway: Objects and Capacity are required")
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("gateway: name: %w", err)
		}
		c.Name = host
	}
	if c.Provider == "" {
		c.Provider = "podsnap"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Gateway is the front door.
type Gateway struct {
	c           Config
	meter       *meter.Meter
	invoker     *invoke.Invoker
	dialect     *dialect.Dialect
	functions   *mirror.Mirror[*api.Function]
	deployments *mirror.Mirror[*appsv1.Deployment]
	ingress     *ingress.Router
	handler     http.Handler
	front       *front.Server
}

// New makes a gateway. It serves once Run runs.
func New(c Config) (*Gateway, error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	guard, err := auth.New(c.Auth)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	g := &Gateway{
		c: c, meter: meter.New(c.Metrics),
		functions:   mirror.New[*api.Function](c.Objects, api.Functions, mirror.Options{Log: c.Log}),
		deployments: mirror.New[*appsv1.Deployment](c.Objects, api.Deployments, mirror.Options{Log: c.Log}),
	}
	g.functions.OnChange(g.changed)
	calls := history.New(history.Size)
	var thaw func(context.Context, string, types.UID, uint64) error
	if c.Agents != nil {
		thaw = func(ctx context.Context, node string, pod types.UID, round uint64) error {
			a, err := c.Agents(ctx, node)
			if err != nil {
				return err
			}
			return a.SetFrozen(ctx, pod, round, false)
		}
	}
	g.invoker = invoke.New(invoke.Config{
		Thaw:     thaw,
		Called:   c.Called,
		Remember: calls.Add,
		Capacity: c.Capacity, Gateway: c.Name, Lookup: g.lookup, Synced: g.functions.Synced(),
		Timeout: c.Timeout, ColdStart: c.ColdStart, MaxQueue: c.MaxQueue, MaxBody: c.MaxBody, Drain: c.Drain,
		Log: c.Log, Meter: g.meter,
	})
	g.dialect = dialect.New(dialect.Config{
		Objects: c.Objects,
		Default: functions.Default, Validate: functions.Validate, Apply: functions.Apply,
		Bounds: func(f *api.Function) (int, int) {
			s := functions.Scaling(f.Spec.Labels)
			return s.Min, s.Max
		},
		Digest: c.Digest, AnnotationDigest: functions.AnnotationDigest,
		Deployed:    func(f *api.Function) { g.invoker.SetFunction(keyOf(f), specOf(f)) },
		Deleted:     g.forget,
		Invocations: func(k types.NamespacedName) uint64 { return g.invoker.Load(k).Invocations },
		Decisions:   c.Capacity.Decisions,
		Agents:      c.Agents, Enqueue: c.Enqueue, Queue: c.Queue, Calls: dialect.Calls{Get: calls.Get, Recent: calls.Recent}, Known: g.invoker.Known, MaxAsyncBody: c.MaxAsyncBody,
		Info: g.info(), Log: c.Log,
	})
	if c.Metrics != nil {
		c.Metrics.MustRegister(meter.NewGauges(g.states))
	}
	g.ingress = ingress.New(ingress.Config{
		Objects: c.Objects, Secrets: c.Secrets, Reserved: reserved, Invoke: g.invokeService, Secure: front.Secure, Log: c.Log, Metrics: c.Metrics,
	})
	g.handler = g.routes(guard)
	g.front = front.New(front.Config{
		Handler: g.handler, Invoker: g.invoker, MaxConns: c.MaxConns, MaxConnsAddress: c.MaxConnsAddress, Leave: c.Leave, Log: c.Log, Metrics: c.Metrics,
	})
	return g, nil
}

// Handler serves everything.
func (g *Gateway) Handler() http.Handler { return g.handler }

// Certificate is the certificate of an Ingress for what a client asks for: for
// tls.Config.GetCertificate. Without Config.Secrets there is none.
func (g *Gateway) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return g.ingress.Certificate(hello)
}

// Front serves everything to connections. It is made once; its owner ends it.
func (g *Gateway) Front() *front.Server { return g.front }

// Invoker serves `/function/…` only; asynchronous workers call it in process.
// It panics with http.ErrAbortHandler when an answer breaks off.
func (g *Gateway) Invoker() http.Handler { return g.invoker }

// Run keeps the gateway's view of the functions until ctx is done; then it
// waits for what is in flight. Stop the listeners first.
func (g *Gateway) Run(ctx context.Context) error {
	inner, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var wg sync.WaitGroup
	errs := make([]error, 4)
	wg.Go(func() { errs[0] = g.functions.Run(inner) })
	wg.Go(func() { errs[1] = g.deployments.Run(inner) })
	wg.Go(func() { errs[3] = g.ingress.Run(inner) })
	if g.c.Manage == nil {
		wg.Go(func() { g.Prepare(ctx) })
	}
	errs[2] = g.invoker.Run(ctx)
	end()
	wg.Wait()
	return errors.Join(errs...)
}

// Prepare makes what has to be there before functions are: their namespace. It
// tries until the store has taken it. A gateway that always manages does so when
// it runs.
func (g *Gateway) Prepare(ctx context.Context) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := g.dialect.EnsureNamespace(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		g.c.Log.Warn("ensure the functions' namespace", slog.Any("error", err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// forget takes a function out; one of the same name that was deployed anew
// stays.
func (g *Gateway) forget(f *api.Function) { g.invoker.DeleteFunction(keyOf(f), f.UID) }

// changed follows the mirror. It may lag behind what this gateway did itself:
// then a deleted function is there again until its deletion comes.
func (g *Gateway) changed(t api.EventType, old, now *api.Function) {
	switch {
	case t == api.Deleted:
		g.forget(old)
	case now.DeletionTimestamp != nil:
		g.forget(now)
	default:
		g.invoker.SetFunction(keyOf(now), specOf(now))
	}
}

func (g *Gateway) lookup(ctx context.Context, k types.NamespacedName) (invoke.Spec, error) {
	f, err := api.Get[*api.Function](ctx, g.c.Objects, api.Functions, k.Namespace, k.Name)
	if err != nil {
		return invoke.Spec{}, err
	}
	if f.DeletionTimestamp != nil {
		return invoke.Spec{}, errDeleted(k)
	}
	return specOf(f), nil
}

func keyOf(f *api.Function) types.NamespacedName {
	return types.NamespacedName{Namespace: f.Namespace, Name: f.Name}
}

// grace is what a function gets beyond its own time limit, so that it is its
// watchdog that says so: 408 or 504, as the documents of OpenFaaS have it.
const grace = time.Second

func specOf(f *api.Function) invoke.Spec {
	limit := functions.Timeout(f)
	if limit > 0 {
		limit += grace
	}
	return invoke.Spec{UID: f.UID, Generation: f.Generation, Timeout: limit, MaxQueue: functions.Queue(f), Wait: functions.Wait(f)}
}

func (g *Gateway) info() openfaas.Info {
	return openfaas.Info{
		Provider: openfaas.Provider{Name: g.c.Provider, Orchestration: "podsnap", Version: g.c.Version},
		Version:  g.c.Version,
		Arch:     runtime.GOARCH,
	}
}

// states is what the gauges show.
func (g *Gateway) states() []meter.State {
	fns := g.functions.List()
	out := make([]meter.State, 0, len(fns))
	for _, f := range fns {
		scale, load := functions.Scaling(f.Spec.Labels), g.invoker.Load(keyOf(f))
		s := meter.State{
			Label:    f.Name + "." + f.Namespace,
			InFlight: load.InFlight + load.Queued, Queued: load.Queued,
			Min: scale.Min, Target: scale.Target, ScalingType: scale.Type,
		}
		if s.ScalingType == functions.ScaleClassic {
			s.ScalingType = functions.ScaleRPS
		}
		if d, ok := g.deployments.Get(f.Namespace, f.Name); ok {
			s.Ready = int(d.Status.AvailableReplicas)
			if d.Spec.Replicas != nil {
				s.Replicas = int(*d.Spec.Replicas)
			}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b meter.State) int {
		if a.Label < b.Label {
			return -1
		}
		return 1
	})
	return out
}
