package garbage

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/disruption"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/view"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func (r *Controller) watchPods() {
	r.c.View.Pods.OnChange(func(t api.EventType, old, now *corev1.Pod) {
		if t == api.Deleted {
			return
		}
		if podstate.Ended(now) && (old == nil || !podstate.Ended(old)) {
			r.pods.Add("")
		}
		if n := now.Spec.NodeName; n != "" && (old == nil || old.Spec.NodeName == "") {
			if _, ok := r.c.View.Nodes.Get("", n); !ok {
				r.pods.Add(n)
			}
		}
	})
	r.c.View.Nodes.OnChange(func(t api.EventType, old, _ *corev1.Node) {
		if t == api.Deleted {
			r.pods.Add(old.Name)
		}
	})
}

func (r *Controller) reconcilePods(ctx context.Context, node string) (time.Duration, error) {
	if node == "" {
		return 0, r.removePods(ctx, surplus(r.c.View.Pods.By(view.Terminated, ""), r.c.Ended), "too many ended pods")
	}
	wait, err := r.absent(ctx, node)
	if wait != 0 || err != nil {
		return max(wait, 0), err
	}
	return 0, r.removePods(ctx, r.c.View.Pods.By(view.Node, node), "its node is gone")
}

// absent answers with 0 when the node has been missing for long enough, with
// the time that is left, or with a negative one when it is there.
func (r *Controller) absent(ctx context.Context, node string) (time.Duration, error) {
	if _, ok := r.c.View.Nodes.Get("", node); ok {
		r.mu.Lock()
		delete(r.missing, node)
		r.mu.Unlock()
		return -1, nil
	}
	r.mu.Lock()
	since, known := r.missing[node]
	if !known {
		since = time.Now()
		r.missing[node] = since
	}
	r.mu.Unlock()
	if left := r.c.NodeGone - time.Since(since); left > 0 {
		return left, nil
	}
	_, err := r.c.Objects.Get(ctx, api.Nodes, "", node)
	if err == nil {
		return r.c.NodeGone, nil // the mirror is behind
	}
	if !apierrors.IsNotFound(err) {
		return 0, err
	}
	r.mu.Lock()
	delete(r.missing, node)
	r.mu.Unlock()
	return 0, nil
}

// removePods ends pods without asking their nodes.
func (r *Controller) removePods(ctx context.Context, pods []*corev1.Pod, why string) error {
	for _, p := range pods {
		if disruption.OfJob(p) {
			if err := disruption.Mark(ctx, r.c.Objects, p, true, disruption.ByGarbage, "PodGC: "+why); err != nil {
				return err
			}
		}
		_, err := r.c.Objects.Delete(ctx, api.Pods, p.Namespace, p.Name, api.DeleteOptions{UID: p.UID, GracePeriodSeconds: new(int64)})
		if settled(err) != nil {
			return err
		}
		r.c.Log.Info("pod deleted", slog.String("pod", view.Key(p).String()), slog.String("reason", why))
	}
	return nil
}

// surplus are the ended pods beyond keep, those that ended first.
func surplus(ended []*corev1.Pod, keep int) []*corev1.Pod {
	keep = max(keep, 0)
	ended = slices.DeleteFunc(slices.Clone(ended), func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if len(ended) <= keep {
		return nil
	}
	slices.SortFunc(ended, func(a, b *corev1.Pod) int { return podstate.EndTime(a).Compare(podstate.EndTime(b)) })
	return ended[:len(ended)-keep]
}
