package pod

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
)

// Refresh tells that something has changed that the pod has mounted.
func (w *Worker) Refresh() { w.post(func() { w.stale = true }) }

// tellsOfItself reports whether a pod has its own metadata mounted.
func tellsOfItself(p *corev1.Pod) bool {
	for i := range p.Spec.Volumes {
		switch v := &p.Spec.Volumes[i]; {
		case v.DownwardAPI != nil:
			return true
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.DownwardAPI != nil {
					return true
				}
			}
		}
	}
	return false
}

// renew brings the pod's volumes up to date, one time after the other, as long as
// it has any.
func (w *Worker) renew(ctx context.Context) {
	if !w.stale || w.renewing || !w.s.Volumes.Ready || w.s.Stop != nil || w.s.Final != nil {
		return
	}
	w.stale, w.renewing = false, true
	p := w.s.Pod
	w.ops.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, actTimeout)
		defer cancel()
		err := w.c.Volumes.Refresh(ctx, p)
		w.post(func() {
			w.renewing = false
			if err != nil && w.s.Stop == nil && !errors.Is(err, context.Canceled) {
				w.event(corev1.EventTypeWarning, "FailedMount", "MountVolume.SetUp failed: "+err.Error())
			}
		})
	})
}
