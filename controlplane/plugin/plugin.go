// Package plugin judges objects by what others say: LimitRanges, PriorityClasses,
// ResourceQuotas, and the Pod Security labels of namespaces. Kubernetes calls what does so admission plugins. It stands
// before package admission, which judges an object on its own, and behind it.
//
// What the plugins look at is in memory. Where a namespace has none of it, it costs
// a look into a map.
package plugin

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/prometheus/client_golang/prometheus"
)

// Config says what the plugins work with. The zero value is usable.
type Config struct {
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Plugins are all of them. Run keeps what they know; Admit judges by it.
type Plugins struct {
	c     Config
	ready chan struct{} // closed when all is known
	loop  *loop.Loop[types.NamespacedName]

	mu      sync.RWMutex
	objects api.Objects
	ranges  map[string][]*corev1.LimitRange // by namespace, ordered by name
	classes map[string]*schedulingv1.PriorityClass
	byRule  *schedulingv1.PriorityClass // the default one
	books   map[string]*book            // by namespace, of those that have quotas
}

// New makes plugins that know nothing yet.
func New(c Config) *Plugins {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p := &Plugins{
		c: c, ready: make(chan struct{}),
		ranges: map[string][]*corev1.LimitRange{}, classes: map[string]*schedulingv1.PriorityClass{}, books: map[string]*book{},
	}
	p.loop = loop.New(loop.Config{Name: "resourcequota", Log: c.Log, Metrics: c.Metrics}, p.reconcile)
	return p
}

// Run follows what is stored, and keeps the status of quotas, until ctx is done;
// nil then. What is to be judged waits until everything has been seen.
func (p *Plugins) Run(ctx context.Context, o api.Objects) error {
	p.mu.Lock()
	p.objects = o
	p.mu.Unlock()
	opts := mirror.Options{Log: p.c.Log}
	ranges := mirror.New[*corev1.LimitRange](o, api.LimitRanges, opts)
	classes := mirror.New[*schedulingv1.PriorityClass](o, api.PriorityClasses, opts)
	quotas := mirror.New[*corev1.ResourceQuota](o, api.ResourceQuotas, opts)
	ranges.OnChange(func(_ api.EventType, old, now *corev1.LimitRange) { p.rangeChanged(old, now) })
	classes.OnChange(func(api.EventType, *schedulingv1.PriorityClass, *schedulingv1.PriorityClass) {
		p.classesChanged(classes.List())
	})
	g, ctx := errgroup.WithContext(ctx)
	quotas.OnChange(func(_ api.EventType, old, now *corev1.ResourceQuota) { p.quotaChanged(ctx, g, old, now) })
	g.Go(func() error { return ranges.Run(ctx) })
	g.Go(func() error { return classes.Run(ctx) })
	g.Go(func() error { return quotas.Run(ctx) })
	g.Go(func() error { return p.loop.Run(ctx) })
	g.Go(func() error {
		for _, synced := range []<-chan struct{}{ranges.Synced(), classes.Synced(), quotas.Synced()} {
			select {
			case <-synced:
			case <-ctx.Done():
				return nil
			}
		}
		close(p.ready)
		return nil
	})
	return g.Wait()
}

func (p *Plugins) rangeChanged(old, now *corev1.LimitRange) {
	o := now
	if o == nil {
		o = old
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// A new list each time: whoever judges has the old one.
	all := slices.DeleteFunc(slices.Clone(p.ranges[o.Namespace]), func(l *corev1.LimitRange) bool { return l.Name == o.Name })
	if now != nil {
		all = append(all, now)
	}
	if len(all) == 0 {
		delete(p.ranges, o.Namespace)
		return
	}
	slices.SortFunc(all, func(a, b *corev1.LimitRange) int { return strings.Compare(a.Name, b.Name) })
	p.ranges[o.Namespace] = all
}

// classesChanged takes in all classes. Should two be the default, the lower one
// counts, as in Kubernetes.
func (p *Plugins) classesChanged(all []*schedulingv1.PriorityClass) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.classes)
	p.byRule = nil
	for _, c := range all {
		p.classes[c.Name] = c
		if c.GlobalDefault && (p.byRule == nil || c.Value < p.byRule.Value) {
			p.byRule = c
		}
	}
}

// Admit wraps what judges objects on their own. What it lets through is counted by
// the quotas of its namespace.
func (p *Plugins) Admit(next rules.Admit) rules.Admit { return p.wrap(next, false) }

// Judge is Admit for what is not going to be stored: nothing is counted.
func (p *Plugins) Judge(next rules.Admit) rules.Admit { return p.wrap(next, true) }

func (p *Plugins) wrap(next rules.Admit, dry bool) rules.Admit {
	return func(ctx context.Context, op rules.Op, r *api.Resource, old, obj api.Object, subresource string) error {
		if subresource != "" {
			if err := next(ctx, op, r, old, obj, subresource); err != nil || subresource != "ephemeralcontainers" {
				return err
			}
			if err := p.wait(ctx, r); err != nil {
				return err
			}
			return p.secure(ctx, r, old, obj)
		}
		if err := p.wait(ctx, r); err != nil {
			return err
		}
		if err := p.before(old, obj); err != nil {
			return apierrors.NewForbidden(r.GR(), obj.GetName(), err)
		}
		if err := next(ctx, op, r, old, obj, subresource); err != nil {
			return err
		}
		if err := p.secure(ctx, r, old, obj); err != nil {
			return err
		}
		return p.count(ctx, r, old, obj, dry)
	}
}

// wait returns when what is stored is known, for what is judged by it. What the
// plugins look at themselves is let through at once.
func (p *Plugins) wait(ctx context.Context, r *api.Resource) error {
	if !r.Namespaced && r != api.PriorityClasses {
		return nil
	}
	select {
	case <-p.ready:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
		return apierrors.NewServiceUnavailable("the quotas, limits and priorities of the cluster are not known yet, please try again")
	}
}

// patience is how long a write waits for what it is judged by.
const patience = 10 * time.Second

// before fills what the object's namespace and class say, and sees whether it may
// be so.
func (p *Plugins) before(old, obj api.Object) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	ranges := p.ranges[obj.GetNamespace()]
	find := func(name string) *schedulingv1.PriorityClass { return p.classes[name] }
	switch o := obj.(type) {
	case *corev1.Pod:
		if old != nil {
			return nil
		}
		if err := admission.Prioritize(o, find, p.byRule); err != nil {
			return err
		}
		if len(ranges) == 0 {
			return nil
		}
		admission.Default(o) // a request follows from a limit that the pod says itself
		admission.Limit(o, ranges)
		return admission.WithinLimits(o, ranges)
	case *corev1.PersistentVolumeClaim:
		return admission.WithinLimits(o, ranges)
	case *schedulingv1.PriorityClass:
		if d := p.byRule; o.GlobalDefault && d != nil && d.Name != o.Name {
			return alreadyDefault(d.Name)
		}
	}
	return nil
}
