package pod

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// weighEvery is how often the emptyDirs of a pod are measured that may not grow
// without bound, as kubelet does. Pods without such are not looked at.
const weighEvery = 10 * time.Second

// bounded are the emptyDirs of a pod on disk that have a limit. Those in memory are
// bounded by their file system.
func bounded(p *corev1.Pod) []*corev1.Volume {
	var out []*corev1.Volume
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if e := v.EmptyDir; e != nil && e.Medium != corev1.StorageMediumMemory && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
			out = append(out, v)
		}
	}
	return out
}

// weigh measures a pod's bounded emptyDirs when it is time to, and answers with when
// that is; zero is never.
func (w *Worker) weigh(ctx context.Context, now time.Time) time.Time {
	if !w.s.Volumes.Ready || w.s.Stop != nil || w.s.Final != nil {
		return time.Time{}
	}
	switch {
	case w.weighing:
		return time.Time{}
	case w.measure.IsZero():
		if len(bounded(w.s.Pod)) == 0 {
			w.weighing = true // never
			return time.Time{}
		}
		w.measure = now.Add(weighEvery)
	case !now.Before(w.measure):
		w.weighing = true
		p := w.s.Pod
		w.ops.Go(func() {
			why := w.exceeded(ctx, p)
			w.post(func() {
				w.weighing, w.measure = false, time.Now().Add(weighEvery)
				if why != "" && w.s.Exceed(why, time.Now()) {
					w.event(corev1.EventTypeWarning, "Evicted", why)
				}
			})
		})
		return time.Time{}
	}
	return w.measure
}

// exceeded says which emptyDir has more than it may; "" is none.
func (w *Worker) exceeded(ctx context.Context, p *corev1.Pod) string {
	for _, v := range bounded(p) {
		n, err := w.c.Volumes.Size(ctx, p, v)
		if err != nil {
			w.warn("measure volume "+v.Name, err)
			continue
		}
		if limit := v.EmptyDir.SizeLimit; n > limit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
		}
	}
	return ""
}
