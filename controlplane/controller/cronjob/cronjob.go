// Package cronjob makes the Jobs of CronJobs when they are due.
package cronjob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// conflictWait is when to look again at a CronJob that changed meanwhile.
const conflictWait = 5 * time.Millisecond

// Config says what the controller works with. Objects, View and Record have to be
// set.
type Config struct {
	Objects api.Objects
	View    *view.View
	Record  *record.Recorder
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controller is the loop.
type Controller struct {
	c    Config
	loop *loop.Loop[types.NamespacedName]
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c}
	r.loop = loop.New(loop.Config{Name: "cronjob", Workers: 4, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.CronJobs.OnChange(func(t api.EventType, _, now *batchv1.CronJob) {
		if t != api.Deleted {
			r.loop.Add(view.Key(now))
		}
	})
	c.View.Jobs.OnChange(func(t api.EventType, old, now *batchv1.Job) {
		if t == api.Modified && outcome(old) == outcome(now) && view.StatusOnly(old, now) {
			return
		}
		if t == api.Deleted {
			now = old
		}
		if o := metav1.GetControllerOfNoCopy(now); o != nil && o.Kind == api.CronJobs.Kind {
			r.loop.Add(types.NamespacedName{Namespace: now.Namespace, Name: o.Name})
		}
	})
	return r
}

// Run reconciles until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	// The mirror may not show yet which run was the last.
	c, err := api.Get[*batchv1.CronJob](ctx, r.c.Objects, api.CronJobs, key.Namespace, key.Name)
	if err != nil {
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return 0, err
	}
	jobs, err := r.jobs(ctx, c)
	if err != nil {
		return 0, err
	}
	p := decide(c, jobs, time.Now())
	for _, e := range p.events {
		r.c.Record.Event(c, e.kind, e.reason, e.message)
	}
	var errs []error
	for _, j := range p.delete {
		errs = append(errs, r.remove(ctx, c, j))
	}
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	if p.create != nil {
		if err := r.start(ctx, c, &p); err != nil {
			return 0, err
		}
	}
	ok, err := r.store(ctx, c, p.status)
	if !ok && err == nil {
		return conflictWait, nil
	}
	return p.again, err
}

// jobs are those of a CronJob. One that is active by its status and that the
// mirror does not show yet is asked for.
func (r *Controller) jobs(ctx context.Context, c *batchv1.CronJob) ([]*batchv1.Job, error) {
	out := slices.Clone(r.c.View.Jobs.By(view.Owner, string(c.UID)))
	for _, a := range c.Status.Active {
		if slices.ContainsFunc(out, func(j *batchv1.Job) bool { return j.UID == a.UID }) {
			continue
		}
		j, err := api.Get[*batchv1.Job](ctx, r.c.Objects, api.Jobs, c.Namespace, a.Name)
		switch {
		case err == nil && j.UID == a.UID:
			out = append(out, j)
		case err != nil && !apierrors.IsNotFound(err):
			return nil, err
		}
	}
	return out, nil
}

// start makes the Job of a run and notes it in the status that is to be stored.
func (r *Controller) start(ctx context.Context, c *batchv1.CronJob, p *plan) error {
	j, err := api.Create(ctx, r.c.Objects, p.create)
	switch {
	case err == nil:
		r.c.Log.Info("job created", slog.String("job", view.Key(j).String()), slog.Time("due", p.due))
		r.c.Record.Event(c, corev1.EventTypeNormal, "SuccessfulCreate", "Created job "+j.Name)
	case apierrors.IsAlreadyExists(err):
		j, err = api.Get[*batchv1.Job](ctx, r.c.Objects, api.Jobs, p.create.Namespace, p.create.Name)
		if err != nil {
			return err
		}
		if !metav1.IsControlledBy(j, c) {
			r.c.Record.Eventf(c, corev1.EventTypeWarning, "FailedCreate", "Job %s is there, and is not of this CronJob", j.Name)
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	default:
		r.c.Record.Eventf(c, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return fmt.Errorf("create Job %s: %w", view.Key(p.create), err)
	}
	p.status.LastScheduleTime = &metav1.Time{Time: p.due}
	if metav1.IsControlledBy(j, c) && outcome(j) == "" {
		p.status.Active = append(p.status.Active, corev1.ObjectReference{
			APIVersion: "batch/v1", Kind: api.Jobs.Kind, Namespace: j.Namespace, Name: j.Name, UID: j.UID, ResourceVersion: j.ResourceVersion,
		})
	}
	return nil
}

func (r *Controller) remove(ctx context.Context, c *batchv1.CronJob, j *batchv1.Job) error {
	_, err := r.c.Objects.Delete(ctx, api.Jobs, j.Namespace, j.Name, api.DeleteOptions{UID: j.UID, Propagation: metav1.DeletePropagationBackground})
	switch {
	case err == nil:
		r.c.Record.Event(c, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job "+j.Name)
		return nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // it is gone, the mirror will show it
	}
	return fmt.Errorf("delete Job %s: %w", view.Key(j), err)
}

// store writes the status for the version that was judged; false is that it has
// changed meanwhile.
func (r *Controller) store(ctx context.Context, c *batchv1.CronJob, st batchv1.CronJobStatus) (bool, error) {
	if equality.Semantic.DeepEqual(c.Status, st) {
		return true, nil
	}
	next := c.DeepCopy()
	next.Status = st
	_, err := r.c.Objects.Update(ctx, next, api.UpdateOptions{Subresource: "status"})
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsConflict(err):
		return false, nil
	case apierrors.IsNotFound(err):
		return true, nil
	}
	return false, fmt.Errorf("write the status of CronJob %s: %w", view.Key(c), err)
}
