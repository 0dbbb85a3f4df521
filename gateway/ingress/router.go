// Package ingress leads requests to Services as Ingresses (networking.k8s.io/v1)
// say: a table of hosts and paths, which is pure, and a handler that proxies to
// the ready endpoints of the Service that it names, or hands the request to a
// function, if the Service is one's.
package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// Config says what a router stands on. Objects, Reserved and Invoke are required.
type Config struct {
	Objects api.Objects
	// Secrets says that certificates may be read; without it Certificate has none.
	Secrets bool
	// Reserved are paths that rules without a host do not get.
	Reserved func(path string) bool
	// Invoke serves a request to a function's Service; false: it is none's.
	Invoke func(w http.ResponseWriter, r *http.Request, service types.NamespacedName) bool
	// Secure tells whether a request came over TLS; nil is never.
	Secure func(*http.Request) bool
	Log    *slog.Logger // nil discards
	// Metrics get faas_ingress_requests_total; nil: none. Functions' are counted as
	// invocations.
	Metrics prometheus.Registerer
}

// patience is how long a request waits for what Services there are, right after
// the first Ingress was made.
const patience = 5 * time.Second

// byService is the index of endpoint slices by namespace/name of their Service.
const byService = "service"

// Router serves what Ingresses are for. It is safe for concurrent use.
type Router struct {
	c         Config
	ingresses *mirror.Mirror[*networkingv1.Ingress]
	classes   *mirror.Mirror[*networkingv1.IngressClass]
	services  *mirror.Mirror[*corev1.Service]
	slices    *mirror.Mirror[*discoveryv1.EndpointSlice]
	secrets   *mirror.Mirror[*corev1.Secret]

	table   atomic.Pointer[Table]
	keys    atomic.Pointer[keys]
	changed chan struct{}
	count   *prometheus.CounterVec
	proxy   http.Handler
	end     func() // of idle connections
}

// New makes a router. It serves once Run runs.
func New(c Config) *Router {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Secure == nil {
		c.Secure = func(*http.Request) bool { return false }
	}
	o := mirror.Options{Log: c.Log}
	r := &Router{
		c:         c,
		ingresses: mirror.New[*networkingv1.Ingress](c.Objects, api.Ingresses, o),
		classes:   mirror.New[*networkingv1.IngressClass](c.Objects, api.IngressClasses, o),
		services:  mirror.New[*corev1.Service](c.Objects, api.Services, o),
		slices:    mirror.New[*discoveryv1.EndpointSlice](c.Objects, api.EndpointSlices, o),
		changed:   make(chan struct{}, 1),
	}
	o.Fields = fields.OneTermEqualSelector("type", string(corev1.SecretTypeTLS))
	r.secrets = mirror.New[*corev1.Secret](c.Objects, api.Secrets, o)
	r.slices.Index(byService, func(s *discoveryv1.EndpointSlice) []string {
		return []string{s.Namespace + "/" + s.Labels[api.LabelServiceName]}
	})
	r.ingresses.OnChange(func(api.EventType, *networkingv1.Ingress, *networkingv1.Ingress) { r.kick() })
	r.classes.OnChange(func(api.EventType, *networkingv1.IngressClass, *networkingv1.IngressClass) { r.kick() })
	r.secrets.OnChange(func(api.EventType, *corev1.Secret, *corev1.Secret) { r.kick() })
	r.table.Store(Compile(nil))
	r.keys.Store(&keys{})
	r.proxy, r.end = r.newProxy()
	r.count = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "faas_ingress_requests_total", Help: "Requests that an Ingress led to a Service that is no function's, by the status of the answer.",
	}, []string{"service", "code"})
	if c.Metrics != nil {
		c.Metrics.MustRegister(r.count)
	}
	return r
}

func (r *Router) kick() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Run follows the Ingresses until ctx is done and returns nil then. Services are
// followed from the first Ingress on: where there is none they cost nothing.
func (r *Router) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, 5)
	wg.Go(func() { errs[0] = r.ingresses.Run(ctx) })
	wg.Go(func() { errs[1] = r.classes.Run(ctx) })
	follow := sync.OnceFunc(func() {
		wg.Go(func() { errs[2] = r.services.Run(ctx) })
		wg.Go(func() { errs[3] = r.slices.Run(ctx) })
		if r.c.Secrets {
			wg.Go(func() { errs[4] = r.secrets.Run(ctx) })
		}
	})
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			r.end()
			return errors.Join(errs...)
		case <-r.changed:
		}
		ours := r.ours()
		t := Compile(ours)
		if !t.Empty() {
			follow()
		}
		r.keys.Store(r.certificates(ours))
		r.table.Store(t)
	}
}

// ours are the Ingresses that the gateways serve.
func (r *Router) ours() []*networkingv1.Ingress {
	var out []*networkingv1.Ingress
	for _, i := range r.ingresses.List() {
		if i.DeletionTimestamp == nil && api.ServesIngress(i, r.controllerOf) {
			out = append(out, i)
		}
	}
	return out
}

func (r *Router) controllerOf(class string) string {
	if c, ok := r.classes.Get("", class); ok {
		return c.Spec.Controller
	}
	return ""
}

// Serve answers a request if an Ingress is for it.
func (r *Router) Serve(w http.ResponseWriter, req *http.Request) bool {
	t := r.table.Load()
	if t.Empty() {
		return false
	}
	b, m := t.Match(req.Host, req.URL.Path)
	switch {
	case m == Unknown, m == Any && r.c.Reserved(req.URL.Path):
		return false
	case m == NoPath:
		http.Error(w, "no rule of an Ingress for this host has this path", http.StatusNotFound)
		return true
	}
	key := types.NamespacedName{Namespace: b.Namespace, Name: b.Service}
	if r.c.Invoke(w, req, key) {
		return true
	}
	s := &counted{ResponseWriter: w}
	defer func() { r.count.WithLabelValues(key.String(), strconv.Itoa(s.code())).Inc() }() // also when the answer breaks off
	r.forward(s, req, b)
	return true
}

// forward sends a request to a backend.
func (r *Router) forward(w http.ResponseWriter, req *http.Request, b Backend) {
	to, err := r.endpoints(req.Context(), b)
	if err != nil {
		w.Header().Set("Retry-After", "1")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	r.proxy.ServeHTTP(w, req.WithContext(withTarget(req.Context(), &target{addrs: to, w: w})))
}

// counted remembers the status of an answer.
type counted struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (c *counted) WriteHeader(status int) {
	if c.status == 0 && status >= 200 { // 1xx comes before the answer
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// code is the answer's; who took the connection over switched protocols.
func (c *counted) code() int { return cmp.Or(c.status, http.StatusSwitchingProtocols) }

// endpoints are the addresses (host:port) at which a backend is ready; never
// none without an error.
func (r *Router) endpoints(ctx context.Context, b Backend) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, synced := range []<-chan struct{}{r.services.Synced(), r.slices.Synced()} {
		select {
		case <-synced:
		case <-ctx.Done():
			return nil, errors.New("which Services there are is not known yet")
		}
	}
	svc, ok := r.services.Get(b.Namespace, b.Service)
	if !ok {
		return nil, fmt.Errorf("the Ingress's backend, Service %s/%s, is not there", b.Namespace, b.Service)
	}
	out, err := resolve(svc, b.Port, r.slices.By(byService, b.Namespace+"/"+b.Service))
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("no endpoint of Service %s/%s is ready", b.Namespace, b.Service)
	}
	return out, err
}
