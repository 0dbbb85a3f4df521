// Package controller runs all controllers of the control plane over one set of
// mirrors.
package controller

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/controller/account"
	"github.com/podsnap/podsnap/controlplane/controller/binder"
	"github.com/podsnap/podsnap/controlplane/controller/certificate"
	"github.com/podsnap/podsnap/controlplane/controller/cronjob"
	"github.com/podsnap/podsnap/controlplane/controller/daemon"
	"github.com/podsnap/podsnap/controlplane/controller/definition"
	"github.com/podsnap/podsnap/controlplane/controller/deployment"
	"github.com/podsnap/podsnap/controlplane/controller/disruption"
	"github.com/podsnap/podsnap/controlplane/controller/endpoint"
	"github.com/podsnap/podsnap/controlplane/controller/function"
	"github.com/podsnap/podsnap/controlplane/controller/garbage"
	"github.com/podsnap/podsnap/controlplane/controller/horizontal"
	"github.com/podsnap/podsnap/controlplane/controller/ingress"
	"github.com/podsnap/podsnap/controlplane/controller/job"
	"github.com/podsnap/podsnap/controlplane/controller/loadbalancer"
	"github.com/podsnap/podsnap/controlplane/controller/namespace"
	"github.com/podsnap/podsnap/controlplane/controller/node"
	"github.com/podsnap/podsnap/controlplane/controller/replicas"
	"github.com/podsnap/podsnap/controlplane/controller/role"
	"github.com/podsnap/podsnap/controlplane/controller/stateful"
	"github.com/podsnap/podsnap/controlplane/custom"
	"github.com/podsnap/podsnap/controlplane/meter"
	"github.com/podsnap/podsnap/controlplane/rbac"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Name is the controllers' own in events.
const Name = "controllers"

// Config says what the controllers work with.
type Config struct {
	Objects api.Objects
	Kinds   *custom.Kinds // the custom ones; nil is none
	// Apply brings a function's Deployment and Service in line with it; nil
	// runs no function controller.
	Apply func(ctx context.Context, o api.Objects, f *api.Function) error
	// Place picks nodes for new pods of sets, see replicas.Config; nil leaves
	// all to the scheduler.
	Place func(*corev1.Pod) (node string, settle func(created *corev1.Pod))

	// Use answers with what nodes and their pods use; nil runs no autoscalers but
	// those of functions.
	Use func(ctx context.Context, nodes ...string) map[string]meter.Node

	// Policy is kept as roles and bindings say; nil is none.
	Policy *rbac.Policy
	// Authority is the certificate by which pods know the API server (PEM); "" gives
	// them none.
	Authority string
	// Token makes the tokens of accounts that stand in Secrets; nil: there are none.
	Token func(s *corev1.Secret, of *corev1.ServiceAccount) (string, error)

	// Sign makes certificates of the API's clients, see certificate.Config; nil makes none.
	Sign func(name string, groups []string, key crypto.PublicKey, life time.Duration) ([]byte, error)

	Grace      time.Duration // a node whose lease is older is lost; 0 is 4 s
	EvictAfter time.Duration // how long pods stay on one that is not ready; 0 is 2 s
	LostAfter  time.Duration // and on one that is lost; 0 is not at all
	NodeGone   time.Duration // how long a node has to be missing until its pods are deleted; 0 is 5 s
	// Reserved are TCP ports of nodes that no Service of the type LoadBalancer may
	// take.
	Reserved []int32
	Ended    int // ended pods that are kept; 0 is 500, negative is none

	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controllers are all of them.
type Controllers struct {
	c      Config
	view   *view.View
	record *record.Recorder
	run    []func(context.Context) error
}

// New makes the controllers.
func New(c Config) *Controllers {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	v := view.New(c.Objects, c.Kinds, c.Log)
	rec := record.New(record.Config{Objects: c.Objects, Component: Name, Log: c.Log})
	cs := &Controllers{c: c, view: v, record: rec}
	cs.add(replicas.New(replicas.Config{Objects: c.Objects, View: v, Place: c.Place, Record: rec, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(deployment.New(deployment.Config{Objects: c.Objects, View: v, Record: rec, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(daemon.New(daemon.Config{Objects: c.Objects, View: v, Record: rec, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(stateful.New(stateful.Config{Objects: c.Objects, View: v, Record: rec, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(binder.New(binder.Config{Objects: c.Objects, View: v, Record: rec, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(job.New(job.Config{Objects: c.Objects, View: v, Record: rec, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(cronjob.New(cronjob.Config{Objects: c.Objects, View: v, Record: rec, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(disruption.New(disruption.Config{Objects: c.Objects, View: v, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(endpoint.New(endpoint.Config{Objects: c.Objects, View: v, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(loadbalancer.New(loadbalancer.Config{Objects: c.Objects, View: v, Record: rec, Reserved: c.Reserved, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(ingress.New(ingress.Config{Objects: c.Objects, View: v, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(node.New(node.Config{
		Objects: c.Objects, View: v, Record: rec, Grace: c.Grace, EvictAfter: c.EvictAfter, LostAfter: c.LostAfter, Log: c.Log, Metrics: c.Metrics,
	}).Run)
	cs.add(garbage.New(garbage.Config{Objects: c.Objects, View: v, Ended: c.Ended, NodeGone: c.NodeGone, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(namespace.New(namespace.Config{Objects: c.Objects, View: v, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(definition.New(definition.Config{Objects: c.Objects, View: v, Log: c.Log, Metrics: c.Metrics}).Run)
	cs.add(role.New(role.Config{Objects: c.Objects, View: v, Policy: c.Policy, Log: c.Log, Metrics: c.Metrics}).Run)
	accounts := account.Config{Objects: c.Objects, View: v, Authority: c.Authority, Log: c.Log, Metrics: c.Metrics}
	cs.add(account.New(accounts).Run)
	if c.Token != nil {
		cs.add(account.NewSecrets(account.SecretsConfig{Config: accounts, Token: c.Token}).Run)
	}
	cs.add(certificate.New(certificate.Config{Objects: c.Objects, View: v, Sign: c.Sign, Log: c.Log, Metrics: c.Metrics}).Run)
	if c.Use != nil {
		cs.add(horizontal.New(horizontal.Config{Objects: c.Objects, View: v, Use: c.Use, Record: rec, Log: c.Log, Metrics: c.Metrics}).Run)
	}
	if c.Apply != nil {
		cs.add(function.New(function.Config{Objects: c.Objects, View: v, Apply: c.Apply, Record: rec, Log: c.Log, Metrics: c.Metrics}).Run)
	}
	return cs
}

func (cs *Controllers) add(run func(context.Context) error) { cs.run = append(cs.run, run) }

// View is what the controllers see. It is filled while they run.
func (cs *Controllers) View() *view.View { return cs.view }

// Run makes the namespaces that the platform needs and its classes, and then runs all
// controllers until ctx is done. It returns nil then.
func (cs *Controllers) Run(ctx context.Context) error {
	cs.ensure(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cs.view.Run(ctx) })
	g.Go(func() error { return cs.record.Run(ctx) })
	g.Go(func() error {
		_ = cs.view.Wait(ctx) // an error is ctx's: then they only let go of what they hold
		all, ctx := errgroup.WithContext(ctx)
		for _, run := range cs.run {
			all.Go(func() error { return run(ctx) })
		}
		return all.Wait()
	})
	return g.Wait()
}

// ensurePriorities makes the built-in priority classes.
func ensurePriorities(ctx context.Context, o api.Objects) error {
	var errs []error
	for _, c := range admission.SystemPriorities() {
		if _, err := o.Get(ctx, api.PriorityClasses, "", c.Name); err == nil {
			continue
		}
		if _, err := o.Create(ctx, &c); err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, fmt.Errorf("create the priority class %s: %w", c.Name, err))
		}
	}
	return errors.Join(errs...)
}

// ensure tries until the store answers.
func (cs *Controllers) ensure(ctx context.Context) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := errors.Join(namespace.Ensure(ctx, cs.c.Objects), ingress.Ensure(ctx, cs.c.Objects), binder.Ensure(ctx, cs.c.Objects), ensurePriorities(ctx, cs.c.Objects), role.Ensure(ctx, cs.c.Objects))
		if err == nil || ctx.Err() != nil {
			return
		}
		cs.c.Log.Warn("namespaces and classes", slog.Any("error", err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
