package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/storage"
	"github.com/podsnap/podsnap/internal/mirror"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// byClaim is an index of pods: namespace/name of each claim that they use.
const byClaim = "claim"

// disks is what there is of storage.
type disks struct {
	claims  *mirror.Mirror[*corev1.PersistentVolumeClaim]
	volumes *mirror.Mirror[*corev1.PersistentVolume]
	classes *mirror.Mirror[*storagev1.StorageClass]
}

func newDisks(objects api.Objects, o mirror.Options) disks {
	return disks{
		claims:  mirror.New[*corev1.PersistentVolumeClaim](objects, api.PersistentVolumeClaims, o),
		volumes: mirror.New[*corev1.PersistentVolume](objects, api.PersistentVolumes, o),
		classes: mirror.New[*storagev1.StorageClass](objects, api.StorageClasses, o),
	}
}

func (d disks) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.claims.Run(ctx) })
	g.Go(func() error { return d.volumes.Run(ctx) })
	g.Go(func() error { return d.classes.Run(ctx) })
	return g.Wait()
}

func (d disks) synced() []<-chan struct{} {
	return []<-chan struct{}{d.claims.Synced(), d.volumes.Synced(), d.classes.Synced()}
}

func (s *Scheduler) watchDisks() {
	s.pods.Index(byClaim, func(p *corev1.Pod) []string {
		names := storage.Names(p)
		for i, n := range names {
			names[i] = p.Namespace + "/" + n
		}
		return names
	})
	s.disks.claims.OnChange(func(_ api.EventType, old, now *corev1.PersistentVolumeClaim) {
		if now == nil {
			now = old
		}
		s.wakeStored(now.Namespace)
	})
	s.disks.volumes.OnChange(func(_ api.EventType, old, now *corev1.PersistentVolume) {
		if now == nil {
			now = old
		}
		if r := now.Spec.ClaimRef; r != nil {
			s.wakeStored(r.Namespace)
			return
		}
		s.wakeStored("")
	})
	s.disks.classes.OnChange(func(api.EventType, *storagev1.StorageClass, *storagev1.StorageClass) { s.wakeStored("") })
}

// wakeStored has the pods with claims, of one namespace or of all, looked at again: those
// that are held at once, the others when their back-off allows.
func (s *Scheduler) wakeStored(namespace string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, w := range s.waiting {
		switch {
		case !w.stored || namespace != "" && key.Namespace != namespace:
		case w.parked:
			w.parked = false
			s.loop.AddAfter(key, backoff(w.tries, s.c.BackoffMax)-time.Since(w.last))
		default:
			s.loop.Add(key)
		}
	}
}

// world is what storage.Of looks at. The lock is held.
func (s *Scheduler) world() storage.World {
	return storage.World{
		Claim:   s.disks.claims.Get,
		Volume:  func(name string) (*corev1.PersistentVolume, bool) { return s.disks.volumes.Get("", name) },
		Class:   func(name string) (*storagev1.StorageClass, bool) { return s.disks.classes.Get("", name) },
		Volumes: s.disks.volumes.List,
		Users: func(namespace, claim string) []*corev1.Pod {
			var out []*corev1.Pod
			for _, p := range s.pods.By(byClaim, namespace+"/"+claim) {
				if _, ok := s.cluster.Where(p.UID); ok {
					out = append(out, p)
				}
			}
			return out
		},
	}
}

// hold is a pod that has room on a node and waits for its claims to be bound for that.
type hold struct {
	uid   types.UID
	node  string
	since time.Time
}

// holdAtMost is how long it waits: another node may be better then.
const holdAtMost = 10 * time.Second

// heldFor looks at a pod that is held. keep says that it stays so, with the claims that
// are still to be bound, and ready that it may be bound itself. Otherwise its room is
// given back, and another decision is to be taken. The lock is held.
func (s *Scheduler) heldFor(key types.NamespacedName, h hold, ask *storage.Ask, never string, now time.Time) (unbound []*corev1.PersistentVolumeClaim, ready, keep bool) {
	n, ok := s.nodes.Get("", h.node)
	young := now.Sub(h.since) < holdAtMost
	switch {
	case !ok, s.waiting[key] == nil:
	case never != "" && young:
		return nil, false, true // the mirror of claims may be ahead of that of volumes
	case never != "", ask == nil, ask.Forbids(n) != "":
	case len(ask.Unbound) == 0:
		return nil, true, true
	case young:
		return ask.Unbound, false, true
	}
	s.giveBack(key, h.uid)
	return nil, false, false
}

// prepare says on claims for which node they are to be bound.
func (s *Scheduler) prepare(ctx context.Context, claims []*corev1.PersistentVolumeClaim, node string) error {
	for _, c := range claims {
		_, err := api.Mutate(ctx, s.c.Objects, api.PersistentVolumeClaims, c.Namespace, c.Name, api.UpdateOptions{}, func(o *corev1.PersistentVolumeClaim) (bool, error) {
			if o.UID != c.UID || o.Spec.VolumeName != "" || o.Annotations[api.AnnotationSelectedNode] == node {
				return false, nil
			}
			if o.Annotations == nil {
				o.Annotations = map[string]string{}
			}
			o.Annotations[api.AnnotationSelectedNode] = node
			return true, nil
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("say on claim %s/%s for which node it is: %w", c.Namespace, c.Name, err)
		}
	}
	return nil
}
