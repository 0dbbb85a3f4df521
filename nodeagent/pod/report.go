package pod

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podsnap/podsnap/api"
)

// settle is how long a status that nobody waits for may wait to be written, so
// that the many changes of a start go in one or two writes.
const settle = 100 * time.Millisecond

// write brings the status to Objects in the background when it has changed, and
// answers with when to try again. One write is under way at a time; what comes
// meanwhile goes with the next one.
func (w *Worker) write(ctx context.Context, now time.Time) time.Time {
	st := w.s.Prev
	if w.writing || w.s.Stop != nil && w.s.Stop.Mode == Gone {
		return time.Time{}
	}
	if api.Alike(&w.written, &st) {
		w.dirty = time.Time{}
		if w.s.Final != nil && !w.s.Stored {
			w.s.Stored = true
			return now
		}
		return time.Time{}
	}
	if w.dirty.IsZero() {
		w.dirty = now
	}
	at := w.retry
	if due := w.dirty.Add(settle); !urgent(&w.written, &st) && at.Before(due) {
		at = due
	}
	if now.Before(at) {
		return at
	}
	w.writing, w.dirty = true, time.Time{}
	p := w.base
	w.ops.Go(func() {
		newest, err := w.report(ctx, p, st)
		w.post(func() {
			w.writing = false
			if err == nil {
				w.written, w.base, w.failures, w.retry = st, newest, 0, time.Time{}
				return
			}
			w.again(err, "write status")
		})
	})
	return time.Time{}
}

// urgent tells a change that somebody waits for: a pod that has become ready,
// or is not any more, or has ended.
func urgent(old, now *corev1.PodStatus) bool {
	if old.Phase != now.Phase && (now.Phase == corev1.PodSucceeded || now.Phase == corev1.PodFailed) {
		return true
	}
	return isReady(old) != isReady(now)
}

func isReady(st *corev1.PodStatus) bool {
	for _, c := range st.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (w *Worker) again(err error, what string) {
	w.failures++
	wait := backoff{100 * time.Millisecond, 5 * time.Second}.after(w.failures)
	w.retry = time.Now().Add(wait)
	w.log.Debug("objects", slog.String("what", what), slog.Any("error", err), slog.Duration("again_in", wait))
}

func (w *Worker) report(ctx context.Context, p *corev1.Pod, st corev1.PodStatus) (*corev1.Pod, error) {
	if w.c.Objects == nil {
		return p, nil
	}
	return Report(ctx, w.c.Objects, p, st)
}

// Report writes a status to the newest version of the object and answers with
// what that is then. An object that is not there (any more) is no fault.
func Report(ctx context.Context, o api.Objects, p *corev1.Pod, st corev1.PodStatus) (*corev1.Pod, error) {
	for {
		next := *p
		next.Status = Merge(st, p.Status)
		got, err := api.Update(ctx, o, &next, api.UpdateOptions{Subresource: "status"})
		if err == nil {
			return got, nil
		}
		if apierrors.IsNotFound(err) {
			return p, nil
		}
		if !apierrors.IsConflict(err) {
			return nil, err
		}
		newest, err := api.Get[*corev1.Pod](ctx, o, api.Pods, p.Namespace, p.Name)
		if apierrors.IsNotFound(err) || err == nil && newest.UID != p.UID {
			return p, nil
		}
		if err != nil {
			return nil, err
		}
		p = newest
	}
}

// Merge adds to a status what others own.
func Merge(st, newest corev1.PodStatus) corev1.PodStatus {
	out := *st.DeepCopy()
	for _, c := range newest.Conditions {
		if !owned(c.Type) {
			out.Conditions = append(out.Conditions, c)
		}
	}
	out.NominatedNodeName = newest.NominatedNodeName
	return out
}

// finish ends the object's part of a pod: its last status is written and, when
// it was deleted, the object is removed. It is tried until it is done.
func (w *Worker) finish(a Action) func(context.Context) func() {
	p, st, mode := w.base, w.s.Prev, w.s.Stop.Mode
	return func(ctx context.Context) func() {
		err := w.conclude(ctx, p, st, mode)
		return func() {
			w.s.Acted(a)
			if err == nil {
				w.written, w.s.Done = st, true
				return
			}
			w.again(err, "finish")
			w.s.Ending.Until = w.retry
		}
	}
}

func (w *Worker) conclude(ctx context.Context, p *corev1.Pod, st corev1.PodStatus, mode Mode) error {
	if mode != Keep { // logs stay as long as the pod
		w.warn("remove logs", os.RemoveAll(logDir(w.c.LogDir, p)))
	}
	if mode == Gone {
		return nil
	}
	_, err := w.report(ctx, p, st)
	if mode == Keep {
		// The node stops, perhaps with the store: the next agent sees anyhow
		// that nothing runs.
		w.warn("last status", err)
		return nil
	}
	if err != nil || mode != Delete || w.c.Objects == nil {
		return err
	}
	zero := int64(0)
	_, err = w.c.Objects.Delete(ctx, api.Pods, p.Namespace, p.Name, api.DeleteOptions{GracePeriodSeconds: &zero, UID: p.UID})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or its name is another pod's now
		return nil
	}
	return err
}

// backoffs tells events for containers that have come to wait.
func (w *Worker) backoffs(next corev1.PodStatus) {
	was := map[string]string{}
	for _, cs := range append(slices.Clip(w.s.Prev.InitContainerStatuses), w.s.Prev.ContainerStatuses...) {
		if cs.State.Waiting != nil {
			was[cs.Name] = cs.State.Waiting.Reason + cs.State.Waiting.Message
		}
	}
	for _, cs := range append(slices.Clip(next.InitContainerStatuses), next.ContainerStatuses...) {
		wt := cs.State.Waiting
		if wt == nil || was[cs.Name] == wt.Reason+wt.Message {
			continue
		}
		switch wt.Reason {
		case "CrashLoopBackOff", "ImagePullBackOff":
			w.event(corev1.EventTypeWarning, "BackOff", wt.Message)
		case "CreateContainerConfigError":
			w.event(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Error: %s", wt.Message))
		}
	}
}
