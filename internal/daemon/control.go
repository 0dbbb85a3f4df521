package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/builder/registry"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/account"
	"github.com/podsnap/podsnap/controlplane/address"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/apiserver"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/custom"
	"github.com/podsnap/podsnap/controlplane/fleet"
	"github.com/podsnap/podsnap/controlplane/leader"
	"github.com/podsnap/podsnap/controlplane/meter"
	"github.com/podsnap/podsnap/controlplane/plugin"
	"github.com/podsnap/podsnap/controlplane/rbac"
	"github.com/podsnap/podsnap/controlplane/scheduler"
	"github.com/podsnap/podsnap/controlplane/soft"
	"github.com/podsnap/podsnap/controlplane/store"
	"github.com/podsnap/podsnap/controlplane/usage"
	"github.com/podsnap/podsnap/functions"
	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/gateway/async"
	"github.com/podsnap/podsnap/gateway/backlog"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// control is the control plane. It runs as long as the process does or, where
// servers share their stores, for a term.
type control struct {
	c       *Config
	log     *slog.Logger
	stack   *stack
	metrics prometheus.Registerer
	secrets *secrets
	servers func(context.Context) (join.Servers, error) // nil: this is the only one
	members http.Handler                                // of the embedded stores; nil: those are not several servers'

	gate     *access.Gate
	accounts *account.Desk

	objects api.Objects
	plugins *plugin.Plugins
	kinds   *custom.Kinds
	fleet   *fleet.Fleet
	usage   *usage.Sampler
	queue   *async.Queue
	waiting *backlog.Backlog
	api     http.Handler
}

// startStore brings up what is declared. A term without a key is not fenced.
func (k *control) startStore(ctx context.Context, client *store.Client, t leader.Term) error {
	addresses, err := newAddresses(k.c, k.log)
	if err != nil {
		return err
	}
	k.plugins = plugin.New(plugin.Config{Log: k.log, Metrics: k.metrics})
	k.kinds = &custom.Kinds{}
	k.gate = &access.Gate{Token: k.secrets.apiToken, Roles: rbac.New()}
	s, err := store.New(store.Config{
		Define: k.kinds.Define,
		Client: client, Prefix: k.c.EtcdPrefix, Log: k.log, Metrics: k.metrics,
		Admit: addresses.Admit(k.plugins.Admit(k.admit)), Fence: store.Fence{Key: t.Key, Revision: t.Revision},
	})
	if err != nil {
		return err
	}
	k.stack.start(ctx, "store", s.Run)
	so, err := soft.New(soft.Config{
		Durable: s, Kinds: soft.ReplicaKinds(), Soft: soft.Replicas, Passing: soft.IsRenewal, Admit: k.plugins.Admit(k.admit), Base: t.Base, Log: k.log, Metrics: k.metrics,
	})
	if err != nil {
		return err
	}
	k.stack.start(ctx, "soft store", so.Run)
	k.objects = k.plugins.Objects(so)
	k.stack.start(ctx, "admission plugins", func(ctx context.Context) error { return k.plugins.Run(ctx, so) })
	k.gate.Objects = so
	if k.accounts, err = account.New(account.Config{Objects: so, Key: k.secrets.tokenKey}); err != nil {
		return err
	}
	k.gate.Account = k.accounts.User
	k.stack.start(ctx, "addresses", func(ctx context.Context) error { return addresses.Run(ctx, so) })
	asked, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := client.Get(asked, k.c.EtcdPrefix+"/ready"); err != nil && ctx.Err() == nil {
		return fmt.Errorf("etcd at %s does not answer: %w", strings.Join(k.c.Etcd, ", "), err)
	}
	return k.loaded(ctx, so.Ready())
}

// admit judges what is written, whether it is stored or not.
func (k *control) admit(ctx context.Context, op rules.Op, r *api.Resource, old, obj api.Object, subresource string) error {
	return account.Admit(k.gate.Guard(admission.Admit), func(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
		return api.Get[*corev1.ServiceAccount](ctx, k.objects, api.ServiceAccounts, namespace, name)
	})(ctx, op, r, old, obj, subresource)
}

// loaded waits until everything that is stored has been read, however much it
// is.
func (k *control) loaded(ctx context.Context, ready <-chan struct{}) error {
	begin := time.Now()
	say := time.NewTicker(10 * time.Second)
	defer say.Stop()
	for {
		select {
		case <-ready:
			return nil
		case <-say.C:
			k.log.Info("reading what is stored", slog.Duration("since", time.Since(begin).Round(time.Second)))
		case err := <-k.stack.failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// startDeciding brings up what acts on it.
func (k *control) startDeciding(ctx context.Context, agents func(context.Context, string) (api.Agent, error)) error {
	var err error
	k.usage, err = usage.New(usage.Config{Objects: k.objects, Agents: agents, Told: func(f types.NamespacedName) { k.fleet.Look(f) }, Log: k.log})
	if err != nil {
		return err
	}
	k.fleet, err = fleet.New(fleet.Config{Objects: k.objects, Policy: policy, CPU: k.usage.CPU, Agents: agents, Log: k.log, Metrics: k.metrics})
	if err != nil {
		return err
	}
	sched := scheduler.New(scheduler.Config{Objects: k.objects, Log: k.log, Metrics: k.metrics})
	use, err := meter.New(meter.Config{Agents: agents, Log: k.log})
	if err != nil {
		return err
	}
	controllers := controller.New(controller.Config{
		Objects: k.objects, Kinds: k.kinds, Apply: functions.Apply, Place: sched.Place, Use: use.Read, Reserved: k.c.ports(), Log: k.log, Metrics: k.metrics,
		Policy: k.gate.Roles, Authority: string(k.secrets.authority.PEM()), Token: k.accounts.Lasting, Sign: k.secrets.authority.Client,
	})
	v := controllers.View()
	k.gate.Synced = []<-chan struct{}{v.Roles.Synced(), v.RoleBindings.Synced(), v.ClusterRoles.Synced(), v.ClusterRoleBindings.Synced()}
	k.stack.start(ctx, "controllers", controllers.Run)
	k.stack.start(ctx, "scheduler", sched.Run)
	k.stack.start(ctx, "fleet", k.fleet.Run)
	return nil
}

// newQueue makes what accepts asynchronous calls and has a gateway make them.
func (k *control) newQueue(natsURL string, g *gateway.Gateway) (err error) {
	k.queue, err = async.New(async.Config{URL: natsURL, CA: k.c.NATSCA, Credentials: k.c.NATSCreds, Handler: g.Invoker(), Retry: k.retry, Replicas: k.c.natsCopies(), Log: k.log, Metrics: k.metrics})
	if err != nil {
		return err
	}
	k.waiting = backlog.New(backlog.Config{Capacity: k.fleet, Gateway: k.c.NodeName, Pending: lookInto(k.queueNow).Pending, Log: k.log})
	return nil
}

func (k *control) queueNow() (*async.Queue, error) { return k.queue, nil }

func (k *control) startQueue(ctx context.Context) {
	k.stack.start(ctx, "asynchronous calls", k.queue.Run)
	k.stack.start(ctx, "backlog", k.waiting.Run)
}

// newAPI makes the Kubernetes API, and what nodes need beside it.
func (k *control) newAPI(p *platform, reg *registry.Registry) error {
	beside, open := p.forNodes(k, reg)
	s, err := apiserver.New(apiserver.Config{
		Objects: k.objects, Kinds: k.kinds, Agents: p.agents, Gate: k.gate, Accounts: k.accounts, Version: k.c.Version, Log: k.log, Metrics: k.metrics,
		Beside: beside, Open: open, Judge: k.plugins.Judge(k.admit),
	})
	k.api = s
	return err
}

func newAddresses(c *Config, log *slog.Logger) (*address.Allocator, error) {
	pods, err := parseNetworks(c.ClusterCIDR)
	if err != nil {
		return nil, err
	}
	services, err := parseNetworks(c.ServiceCIDR)
	if err != nil {
		return nil, err
	}
	return address.New(address.Config{Pods: pods.four, Pods6: pods.six, Services: services.four, Services6: services.six, Log: log})
}

// policy reads how a function scales from its Deployment, which has the
// function's labels.
func policy(d *appsv1.Deployment) autoscale.Policy {
	n, _ := strconv.Atoi(d.Spec.Template.Annotations[api.AnnotationConcurrency]) // absent is 0: no limit
	return autoscale.Policy{Scale: functions.Scaling(d.Labels), Concurrency: n}
}

// retry reads from a function's annotations when its calls are tried again.
func (k *control) retry(f types.NamespacedName) async.Retry {
	ctx := context.Background() //nolint:forbidigo // reads a cache
	fn, err := api.Get[*api.Function](ctx, k.objects, api.Functions, f.Namespace, f.Name)
	if err != nil {
		return async.Retry{}
	}
	return async.ParseRetry(fn.Spec.Annotations)
}
