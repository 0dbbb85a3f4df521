// Package live follows the Secrets and ConfigMaps that are mounted into the pods of
// a node, each by a watch of its own, as kubelet does: a node may not read others.
// Functions' replicas are not followed: there are many, they do not live long, and
// a cold start is not to wait for a watch.
package live

import (
	"context"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/mirror"
)

// Follower tells of changes of what pods have mounted.
type Follower struct {
	objects api.Objects
	changed func(pod types.UID)
	log     *slog.Logger

	mu    sync.Mutex
	holds map[types.UID][]source
	watch map[source]*watch
	wg    sync.WaitGroup
}

// source is an object that is mounted.
type source struct {
	kind            *api.Resource
	namespace, name string
}

type watch struct {
	pods map[types.UID]bool
	end  context.CancelFunc
}

// New makes a follower; changed is called for each pod that has something mounted
// that has changed, and returns soon.
func New(o api.Objects, changed func(pod types.UID), log *slog.Logger) *Follower {
	return &Follower{objects: o, changed: changed, log: log, holds: map[types.UID][]source{}, watch: map[source]*watch{}}
}

// Hold follows what a pod has mounted, until Drop or the end of ctx.
func (f *Follower) Hold(ctx context.Context, p *corev1.Pod) {
	all := sources(p)
	if len(all) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holds[p.UID] = all
	for _, s := range all {
		w := f.watch[s]
		if w == nil {
			w = &watch{pods: map[types.UID]bool{}}
			f.watch[s] = w
			f.follow(ctx, s, w)
		}
		w.pods[p.UID] = true
	}
}

// Drop ends that.
func (f *Follower) Drop(pod types.UID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.holds[pod] {
		w := f.watch[s]
		delete(w.pods, pod)
		if len(w.pods) == 0 {
			w.end()
			delete(f.watch, s)
		}
	}
	delete(f.holds, pod)
}

// Wait returns when all that follows has ended, after the end of its ctx.
func (f *Follower) Wait() { f.wg.Wait() }

// follow watches one object, until it says that it never changes.
func (f *Follower) follow(ctx context.Context, s source, w *watch) {
	ctx, w.end = context.WithCancel(ctx)
	m := mirror.New[api.Object](f.objects, s.kind, mirror.Options{
		Namespace: s.namespace, Fields: fields.OneTermEqualSelector("metadata.name", s.name), Log: f.log,
	})
	end := w.end
	m.OnChange(func(_ api.EventType, _, now api.Object) {
		if now == nil {
			return // what is there stays, as with kubelet
		}
		f.mu.Lock()
		pods := make([]types.UID, 0, len(w.pods))
		for uid := range w.pods {
			pods = append(pods, uid)
		}
		f.mu.Unlock()
		for _, uid := range pods {
			f.changed(uid)
		}
		if immutable(now) {
			end()
		}
	})
	f.wg.Go(func() { _ = m.Run(ctx) }) // nil, always
}

func immutable(o api.Object) bool {
	var b *bool
	switch o := o.(type) {
	case *corev1.Secret:
		b = o.Immutable
	case *corev1.ConfigMap:
		b = o.Immutable
	}
	return b != nil && *b
}

// sources are the objects that a pod has mounted.
func sources(p *corev1.Pod) []source {
	if p.Labels[api.LabelFunction] != "" {
		return nil
	}
	var out []source
	seen := map[source]bool{}
	add := func(r *api.Resource, name string) {
		if s := (source{r, p.Namespace, name}); !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	for i := range p.Spec.Volumes {
		switch v := &p.Spec.Volumes[i]; {
		case v.Secret != nil:
			add(api.Secrets, v.Secret.SecretName)
		case v.ConfigMap != nil:
			add(api.ConfigMaps, v.ConfigMap.Name)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.Secret != nil {
					add(api.Secrets, s.Secret.Name)
				}
				if s.ConfigMap != nil {
					add(api.ConfigMaps, s.ConfigMap.Name)
				}
			}
		}
	}
	return out
}
