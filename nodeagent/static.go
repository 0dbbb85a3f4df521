package nodeagent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/nodeagent/pod"
)

// statics are the pods that the node has from files of its own. They run whatever the
// API says, or whether there is one; what it shows of each is a mirror pod. The agent's
// lock guards it.
type statics struct {
	wanted map[types.NamespacedName]*corev1.Pod
	named  map[types.UID]types.NamespacedName // of those that are wanted, or run
	ending map[types.UID]bool                 // they run and are not wanted any more, as they are
	final  map[types.UID]*corev1.Pod          // they are wanted and have ended for good, so

	mirrors *loop.Loop[types.NamespacedName]
	told    chan struct{} // closed when it is known which there are
}

// mirrorSettle is how long a change of a static pod waits to be shown, so that the many
// of a start go in one or two writes.
const mirrorSettle = 100 * time.Millisecond

func newStatics() statics {
	return statics{
		wanted: map[types.NamespacedName]*corev1.Pod{}, named: map[types.UID]types.NamespacedName{},
		ending: map[types.UID]bool{}, final: map[types.UID]*corev1.Pod{}, told: make(chan struct{}),
	}
}

// runStatics has the node's own pods followed, until ctx is done.
func (a *Agent) runStatics(ctx context.Context) {
	if a.c.Static == nil {
		close(a.static.told)
		return
	}
	err := a.c.Static(ctx, func(pods []*corev1.Pod) { a.setStatic(pods) }) //nolint:contextcheck // as in Run
	if err != nil && ctx.Err() == nil {
		a.log.ErrorContext(ctx, "static pods are not followed", slog.Any("error", err))
	}
}

// setStatic takes in which static pods there are to be. One that is not the same any
// more is ended before the next one of its name begins.
func (a *Agent) setStatic(pods []*corev1.Pod) {
	next := map[types.NamespacedName]*corev1.Pod{}
	for _, p := range pods {
		next[nameOf(p)] = p
	}
	a.mu.Lock()
	var stop []*pod.Worker
	for name, old := range a.static.wanted {
		if p := next[name]; p != nil && p.UID == old.UID {
			continue
		}
		delete(a.static.final, old.UID)
		delete(a.ended, old.UID)
		if w := a.workers[old.UID]; w != nil {
			a.static.ending[old.UID] = true
			stop = append(stop, w)
		} else {
			delete(a.static.named, old.UID)
		}
	}
	a.static.wanted = next
	var begin []*corev1.Pod
	for name, p := range next {
		if _, known := a.static.named[p.UID]; !known && !a.staticRuns(name) {
			begin = append(begin, p)
		}
		a.static.named[p.UID] = name
	}
	known := maps.Clone(a.static.named)
	a.mu.Unlock()
	for _, w := range stop {
		w.Stop(pod.Delete, -1)
	}
	for _, p := range begin {
		a.accept(p)
	}
	for _, name := range known {
		a.static.mirrors.Add(name)
	}
	select {
	case <-a.static.told:
	default:
		close(a.static.told)
	}
}

// staticRuns tells whether a static pod of a name runs. The caller holds the lock.
func (a *Agent) staticRuns(name types.NamespacedName) bool {
	for uid, n := range a.static.named {
		if n == name && a.workers[uid] != nil {
			return true
		}
	}
	return false
}

// staticConfig is a worker's that takes no pod from the API and tells none of it. The
// network policies are not waited for: nobody may be there who knows them. They count
// when the mirror shows the pod's address.
func (a *Agent) staticConfig() pod.Config {
	c := a.workerConfig()
	c.Objects, c.Guard = nil, nil
	c.Publish = func(p *corev1.Pod) { a.static.mirrors.AddAfter(nameOf(p), mirrorSettle) }
	return c
}

// staticLeft takes in that a static pod does not run any more, and answers with the one
// that is to run now in its place. The caller holds the lock.
func (a *Agent) staticLeft(p *corev1.Pod) (next *corev1.Pod) {
	name := a.static.named[p.UID]
	want := a.static.wanted[name]
	if want != nil && want.UID == p.UID && !a.static.ending[p.UID] {
		a.ended[p.UID], a.static.final[p.UID] = true, p
		return nil
	}
	delete(a.static.ending, p.UID)
	if want == nil || want.UID != p.UID {
		delete(a.static.named, p.UID)
	}
	return want
}

// mirrored follows what the API has of static pods.
func (a *Agent) mirrored(old, now *corev1.Pod) bool {
	p := now
	if p == nil {
		p = old
	}
	if !rules.IsMirror(p) {
		return false
	}
	a.static.mirrors.Add(nameOf(p))
	return true
}

// ofMirror is the static pod that a mirror, by its UID, shows; "" is none. The name
// counts too: anybody may write an annotation.
func (a *Agent) ofMirror(uid types.UID) types.UID {
	for _, p := range a.pods.List() {
		if p.UID != uid || !rules.IsMirror(p) {
			continue
		}
		shown := types.UID(p.Annotations[corev1.MirrorPodAnnotationKey])
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.static.named[shown] == nameOf(p) {
			return shown
		}
	}
	return ""
}

// mirrorOf is the UID under which the API knows a pod of the node.
func (a *Agent) mirrorOf(p *corev1.Pod) types.UID {
	if m, ok := a.pods.Get(p.Namespace, p.Name); ok && m.UID != p.UID && a.shows(m, p) {
		return m.UID
	}
	return p.UID
}

func (a *Agent) shows(mirror, p *corev1.Pod) bool {
	return mirror.Annotations[corev1.MirrorPodAnnotationKey] == string(p.UID)
}

// shown is the static pod of a name with its status of now: the one that runs, or the
// one that is to. nil is none.
func (a *Agent) shown(name types.NamespacedName) *corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, n := range a.static.named {
		if n == name && a.workers[uid] != nil {
			return a.workers[uid].Pod()
		}
	}
	want := a.static.wanted[name]
	if want != nil && a.static.final[want.UID] != nil {
		return a.static.final[want.UID]
	}
	return want
}

// reconcileMirror has the API show a static pod as it is: a mirror that somebody has
// deleted comes back, one of nothing goes.
func (a *Agent) reconcileMirror(ctx context.Context, name types.NamespacedName) (time.Duration, error) {
	p := a.shown(name)
	mirror, there := a.pods.Get(name.Namespace, name.Name)
	switch {
	case there && !rules.IsMirror(mirror):
		if p == nil {
			return 0, nil
		}
		return 0, fmt.Errorf("static pod %s is not shown: another pod has its name", name)
	case there && (p == nil || !a.shows(mirror, p) || mirror.DeletionTimestamp != nil):
		_, err := a.c.Objects.Delete(ctx, api.Pods, name.Namespace, name.Name, api.DeleteOptions{GracePeriodSeconds: new(int64), UID: mirror.UID})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			err = nil // it is another one's by now, which will be seen
		}
		return 0, err
	case p == nil:
		return 0, nil
	case !there:
		return 0, a.makeMirror(ctx, p)
	}
	if equality.Semantic.DeepEqual(pod.Merge(p.Status, mirror.Status), mirror.Status) {
		return 0, nil
	}
	_, err := pod.Report(ctx, a.c.Objects, mirror, p.Status)
	return 0, err
}

// makeMirror has the API show a static pod. The mirror goes with the node.
func (a *Agent) makeMirror(ctx context.Context, p *corev1.Pod) error {
	n, err := api.Get[*corev1.Node](ctx, a.c.Objects, api.Nodes, "", a.c.NodeName)
	if err != nil {
		return fmt.Errorf("show static pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	m := p.DeepCopy()
	m.UID, m.ResourceVersion, m.CreationTimestamp, m.Generation, m.Status = "", "", metav1.Time{}, 0, corev1.PodStatus{}
	m.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(n, corev1.SchemeGroupVersion.WithKind("Node"))}
	m.OwnerReferences[0].BlockOwnerDeletion = nil
	if _, err := api.Create(ctx, a.c.Objects, m); err != nil {
		return fmt.Errorf("show static pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

func nameOf(p *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}
