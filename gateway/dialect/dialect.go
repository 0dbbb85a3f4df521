// Package dialect speaks the OpenFaaS gateway API: everything under /system/
// and the asynchronous calls, over the objects of package api. Invocations are
// package invoke's.
package dialect

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config says what the dialect stands on. Objects, Apply, Validate, Default and
// Bounds are required.
type Config struct {
	Objects api.Objects

	// Default, Validate and Apply are those of package functions.
	Default  func(*api.Function)
	Validate func(*api.Function) field.ErrorList
	Apply    func(context.Context, api.Objects, *api.Function) error
	// Bounds are the least and the most replicas that a function's labels allow.
	Bounds func(*api.Function) (least, most int)
	// Digest is the digest that an image's name has now, "" when that is not
	// known; it is kept on the function under AnnotationDigest. nil: never known.
	Digest           func(ctx context.Context, image string) string
	AnnotationDigest string

	// Deployed and Deleted are told of each change before it is answered; nil
	// when nobody wants to know.
	Deployed func(*api.Function)
	Deleted  func(*api.Function)
	// Invocations is how often a function was called; nil: 0.
	Invocations func(types.NamespacedName) uint64

	// Decisions are the last ones on a function's number of replicas, oldest
	// first; nil: 501.
	Decisions func(context.Context, types.NamespacedName) ([]api.ScaleDecision, error)

	// Agents finds a node's agent, for logs and usage; nil: both are 501.
	Agents func(ctx context.Context, node string) (api.Agent, error)

	// Enqueue stores an asynchronous call and returns when it is safe; nil: 501.
	Enqueue func(context.Context, AsyncCall) error
	// Known is nil when a function exists; asked before Enqueue. Its errors may
	// have a method HTTPStatus() int.
	Known        func(context.Context, types.NamespacedName) error
	MaxAsyncBody int64 // bytes; 0 is 1 MiB
	Queue        Queue
	Calls        Calls

	Info openfaas.Info
	Log  *slog.Logger // nil discards
	Now  func() time.Time
}

// Dialect is the handler of /system/ and /async-function/.
type Dialect struct {
	c     Config
	usage *usage
}

// New makes a Dialect.
func New(c Config) *Dialect {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.MaxAsyncBody == 0 {
		c.MaxAsyncBody = 1 << 20
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Invocations == nil {
		c.Invocations = func(types.NamespacedName) uint64 { return 0 }
	}
	if c.Deployed == nil {
		c.Deployed = func(*api.Function) {}
	}
	if c.Deleted == nil {
		c.Deleted = func(*api.Function) {}
	}
	return &Dialect{c: c, usage: newUsage()}
}

// handler answers or returns an error, which is then written.
type handler func(http.ResponseWriter, *http.Request) error

func (d *Dialect) on(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			d.writeError(w, r, err)
		}
	}
}

// Mount puts the routes of /system/ on r.
func (d *Dialect) Mount(r chi.Router) {
	r.Get("/system/functions", d.on(d.listFunctions))
	r.Post("/system/functions", d.on(d.createFunction))
	r.Put("/system/functions", d.on(d.updateFunction))
	r.Delete("/system/functions", d.on(d.deleteFunction))
	r.Get("/system/function/{name}", d.on(d.getFunction))
	r.Get("/system/function/{name}/decisions", d.on(d.decisions))
	r.Post("/system/scale-function/{name}", d.on(d.scale))
	r.Get("/system/info", d.on(d.info))
	r.Get("/system/namespaces", d.on(d.listNamespaces))
	for _, path := range []string{"/system/namespace/", "/system/namespace"} {
		r.Get(path, d.on(d.namespaceUnnamed))
		r.Post(path, d.on(d.createNamespace))
		r.Put(path, d.on(d.namespaceUnnamed))
		r.Delete(path, d.on(d.namespaceUnnamed))
	}
	r.Get("/system/namespace/{name}", d.on(d.getNamespace))
	r.Put("/system/namespace/{name}", d.on(d.updateNamespace))
	r.Delete("/system/namespace/{name}", d.on(d.deleteNamespace))
	r.Get("/system/secrets", d.on(d.listSecrets))
	r.Post("/system/secrets", d.on(d.createSecret))
	r.Put("/system/secrets", d.on(d.updateSecret))
	r.Delete("/system/secrets", d.on(d.deleteSecret))
	r.Get(LogsPath, d.on(d.logs))
	r.Post("/system/alert", d.on(d.alert))
	r.Get("/system/telemetry", d.on(d.telemetry))
	d.mountQueue(r)
	d.mountCalls(r)
}
