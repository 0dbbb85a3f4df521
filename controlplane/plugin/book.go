package plugin

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/quota"
	"github.com/podsnap/podsnap/internal/mirror"
)

// calm is how long changes gather before a quota's status is written.
const calm = 20 * time.Millisecond

func alreadyDefault(name string) error {
	return fmt.Errorf("PriorityClass %s is already marked as default. Only one default can exist", name)
}

// book is a namespace that has quotas: the kinds that they count are followed, and
// nothing else is.
type book struct {
	follow func(r *api.Resource) (synced <-chan struct{})
	end    context.CancelFunc // of what follows

	mu     sync.Mutex
	ledger *quota.Ledger
	synced map[*api.Resource]<-chan struct{}
}

func (p *Plugins) book(namespace string) *book {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.books[namespace]
}

// open makes a namespace's book.
func (p *Plugins) open(ctx context.Context, g *errgroup.Group, namespace string) *book {
	ctx, end := context.WithCancel(ctx)
	b := &book{end: end, ledger: quota.NewLedger(), synced: map[*api.Resource]<-chan struct{}{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	objects := p.objects
	b.follow = func(r *api.Resource) <-chan struct{} {
		m := mirror.New[api.Object](objects, r, mirror.Options{Namespace: namespace, Log: p.c.Log})
		m.OnChange(func(_ api.EventType, old, now api.Object) { p.changed(b, namespace, old, now) })
		g.Go(func() error { return m.Run(ctx) })
		return m.Synced()
	}
	p.books[namespace] = b
	return b
}

// quotaChanged opens a namespace's book with its first quota, and closes it with its
// last. It is called by one goroutine.
func (p *Plugins) quotaChanged(ctx context.Context, g *errgroup.Group, old, now *corev1.ResourceQuota) {
	q := now
	if q == nil {
		q = old
	}
	b := p.book(q.Namespace)
	if b == nil {
		b = p.open(ctx, g, q.Namespace)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if now != nil {
		b.ledger.SetQuota(now)
		for r := range b.ledger.Kinds() {
			if b.synced[r] == nil {
				b.synced[r] = b.follow(r)
			}
		}
		p.loop.AddAfter(keyOf(now), calm)
		return
	}
	b.ledger.DropQuota(old.Name)
	if b.ledger.Empty() {
		b.end()
		p.mu.Lock()
		delete(p.books, old.Namespace)
		p.mu.Unlock()
	}
}

func keyOf(o api.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// changed takes in what is stored.
func (p *Plugins) changed(b *book, namespace string, old, now api.Object) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old != nil && (now == nil || old.GetUID() != now.GetUID()) {
		b.ledger.Gone(old.GetUID())
	}
	if now != nil {
		b.ledger.Seen(now)
	}
	p.touched(b, namespace)
}

// touched has the status of a namespace's quotas worked out anew. The book is locked.
func (p *Plugins) touched(b *book, namespace string) {
	for _, name := range b.ledger.Quotas() {
		p.loop.AddAfter(types.NamespacedName{Namespace: namespace, Name: name}, calm)
	}
}

// count sees whether the quotas of an object's namespace have room for it, and
// counts it from now on.
func (p *Plugins) count(ctx context.Context, r *api.Resource, old, obj api.Object, dry bool) error {
	b := p.book(obj.GetNamespace())
	if b == nil || !r.Namespaced {
		return nil
	}
	b.mu.Lock()
	synced := b.synced[r]
	b.mu.Unlock()
	if synced == nil {
		return nil // no quota counts it
	}
	select {
	case <-synced:
	case <-ctx.Done():
		return apierrors.NewServiceUnavailable("what the namespace uses of its quotas is not known yet, please try again")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if dry {
		return forbidden(r, obj, b.ledger.Check(old, obj))
	}
	undo, err := b.ledger.Ask(old, obj, time.Now())
	if err != nil {
		return forbidden(r, obj, err)
	}
	p.touched(b, obj.GetNamespace())
	if a := attemptOf(ctx); a != nil {
		a.add(func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			undo()
			p.touched(b, obj.GetNamespace())
		})
	}
	return nil
}

func forbidden(r *api.Resource, obj api.Object, err error) error {
	if err == nil {
		return nil
	}
	return apierrors.NewForbidden(r.GR(), obj.GetName(), err)
}

// reconcile writes the status of one quota, if it is not what it should be.
func (p *Plugins) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	b := p.book(key.Namespace)
	if b == nil {
		return 0, nil
	}
	b.mu.Lock()
	for r := range b.ledger.Kinds() {
		select {
		case <-b.synced[r]:
		default:
			b.mu.Unlock()
			return calm, nil // what is used is not known yet
		}
	}
	b.ledger.Expire(time.Now())
	want, ok := b.ledger.Status(key.Name)
	again := time.Duration(0)
	if b.ledger.Waits() {
		again = quota.Patience
	}
	b.mu.Unlock()
	if !ok {
		return 0, nil
	}
	_, err := api.Mutate(ctx, p.store(), api.ResourceQuotas, key.Namespace, key.Name, api.UpdateOptions{Subresource: "status"}, func(q *corev1.ResourceQuota) (bool, error) {
		if q.DeletionTimestamp != nil || equality.Semantic.DeepEqual(q.Status, want) {
			return false, nil
		}
		q.Status = want
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("write the status of ResourceQuota %s: %w", key, err)
	}
	return again, nil
}
