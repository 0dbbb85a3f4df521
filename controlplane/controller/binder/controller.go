// Package binder binds claims to volumes, has volumes made for those that nothing
// suits, and keeps both as long as they are in use.
//
// A volume is given away by one write, of its claimRef, and never to a second claim: to
// whom a claim's data goes is decided there.
package binder

import (
	"context"
	"log/slog"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/storage"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
)

// DefaultClass is the storage class that is there from the beginning.
const DefaultClass = "local"

// Indexes of claims: by the node that the volume that one waits for is to be on, and by
// the volume that one names.
const (
	byNode   = "node"
	byVolume = "volume"
)

// Config says what the controller works with. Objects, View and Record have to be
// set.
type Config struct {
	Objects api.Objects
	View    *view.View
	Record  *record.Recorder
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controller is the two loops, of claims and of volumes.
type Controller struct {
	c       Config
	claims  *loop.Loop[types.NamespacedName]
	volumes *loop.Loop[string]
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c}
	// One worker each: two claims must not be after the same volume at once.
	r.claims = loop.New(loop.Config{Name: "claims", Log: c.Log, Metrics: c.Metrics}, r.reconcileClaim)
	r.volumes = loop.New(loop.Config{Name: "volumes", Log: c.Log, Metrics: c.Metrics}, r.reconcileVolume)
	c.View.PersistentVolumeClaims.OnChange(r.claimChanged)
	c.View.PersistentVolumes.OnChange(r.volumeChanged)
	c.View.StorageClasses.OnChange(func(t api.EventType, _, _ *storagev1.StorageClass) {
		if t != api.Deleted {
			r.wakeUnbound()
		}
	})
	c.View.PersistentVolumeClaims.Index(byNode, func(c *corev1.PersistentVolumeClaim) []string {
		if n := c.Annotations[api.AnnotationSelectedNode]; n != "" && c.Spec.VolumeName == "" {
			return []string{n}
		}
		return nil
	})
	c.View.PersistentVolumeClaims.Index(byVolume, func(c *corev1.PersistentVolumeClaim) []string {
		if c.Spec.VolumeName != "" {
			return []string{c.Spec.VolumeName}
		}
		return nil
	})
	c.View.Nodes.OnChange(func(t api.EventType, old, now *corev1.Node) {
		if t != api.Deleted {
			if old == nil { // the scheduler, whose mirror is another, may have known it before us
				for _, c := range c.View.PersistentVolumeClaims.By(byNode, now.Name) {
					r.claims.Add(view.Key(c))
				}
			}
			return
		}
		for _, v := range c.View.PersistentVolumes.List() {
			if api.NodeOfVolume(v) == old.Name {
				r.volumes.Add(v.Name)
			}
		}
	})
	c.View.Pods.OnChange(func(t api.EventType, old, now *corev1.Pod) {
		if t == api.Deleted || podstate.Ended(now) && (old == nil || !podstate.Ended(old)) {
			p := now
			if p == nil {
				p = old
			}
			for _, name := range storage.Names(p) {
				r.claims.Add(types.NamespacedName{Namespace: p.Namespace, Name: name})
			}
		}
	})
	return r
}

func (r *Controller) claimChanged(t api.EventType, old, now *corev1.PersistentVolumeClaim) {
	for _, c := range []*corev1.PersistentVolumeClaim{old, now} {
		if c != nil {
			r.ofClaim(c)
		}
	}
	if t != api.Deleted {
		r.claims.Add(view.Key(now))
	}
}

func (r *Controller) volumeChanged(t api.EventType, old, now *corev1.PersistentVolume) {
	for _, v := range []*corev1.PersistentVolume{old, now} {
		if v != nil && v.Spec.ClaimRef != nil {
			r.claims.Add(keyOf(v.Spec.ClaimRef))
		}
	}
	if t == api.Deleted {
		now = old
	}
	for _, c := range r.c.View.PersistentVolumeClaims.By(byVolume, now.Name) {
		r.claims.Add(view.Key(c)) // it may name a volume that was not there
	}
	if t == api.Deleted {
		return
	}
	r.volumes.Add(now.Name)
	if now.Spec.ClaimRef == nil {
		r.wakeUnbound()
	}
}

func (r *Controller) wakeUnbound() {
	for _, c := range r.c.View.PersistentVolumeClaims.List() {
		if c.Spec.VolumeName == "" {
			r.claims.Add(view.Key(c))
		}
	}
}

// Run reconciles until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.claims.Run(ctx) })
	g.Go(func() error { return r.volumes.Run(ctx) })
	return g.Wait()
}
