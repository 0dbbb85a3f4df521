package cronjob

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/crontab"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// manual is the annotation of Jobs that somebody has made of a CronJob by hand.
const manual = "cronjob.kubernetes.io/instantiate"

// plan is what a round does, in this order.
type plan struct {
	delete []*batchv1.Job
	create *batchv1.Job
	due    time.Time // of create
	status batchv1.CronJobStatus
	events []event
	again  time.Duration // look again after it; 0 is no need
}

type event struct{ kind, reason, message string }

func (p *plan) tell(kind, reason, format string, args ...any) {
	p.events = append(p.events, event{kind, reason, fmt.Sprintf(format, args...)})
}

// decide compares a CronJob with its Jobs. A Job of the status's active ones that
// is not among jobs is not there.
func decide(c *batchv1.CronJob, jobs []*batchv1.Job, now time.Time) plan {
	p := plan{status: *c.Status.DeepCopy()}
	p.follow(c, jobs)
	if c.DeletionTimestamp != nil {
		return p
	}
	p.tidy(jobs, batchv1.JobComplete, c.Spec.SuccessfulJobsHistoryLimit)
	p.tidy(jobs, batchv1.JobFailed, c.Spec.FailedJobsHistoryLimit)
	if c.Spec.Suspend != nil && *c.Spec.Suspend {
		return p
	}
	zone := ""
	if c.Spec.TimeZone != nil {
		zone = *c.Spec.TimeZone
	}
	s, err := crontab.Parse(c.Spec.Schedule, zone)
	if err != nil {
		p.tell(corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule %q in time zone %q: %v", c.Spec.Schedule, zone, err)
		return p
	}
	p.schedule(c, s, jobs, now)
	if next := s.Next(now); !next.IsZero() {
		p.again = max(next.Sub(now), time.Millisecond)
	}
	return p
}

// follow keeps the list of active Jobs, and the time of the last success.
func (p *plan) follow(c *batchv1.CronJob, jobs []*batchv1.Job) {
	there := map[types.UID]*batchv1.Job{}
	for _, j := range jobs {
		there[j.UID] = j
		known := slices.ContainsFunc(c.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID })
		if _, byHand := j.Annotations[manual]; !known && !byHand && outcome(j) == "" {
			p.tell(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", j.Name)
		}
		if outcome(j) != batchv1.JobComplete || j.Status.CompletionTime == nil {
			continue
		}
		if p.status.LastSuccessfulTime == nil || p.status.LastSuccessfulTime.Before(j.Status.CompletionTime) {
			p.status.LastSuccessfulTime = j.Status.CompletionTime.DeepCopy()
		}
	}
	p.status.Active = slices.DeleteFunc(p.status.Active, func(r corev1.ObjectReference) bool {
		j := there[r.UID]
		switch {
		case j == nil:
			p.tell(corev1.EventTypeNormal, "MissingJob", "Active job went missing: %s", r.Name)
		case outcome(j) != "":
			p.tell(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %s", j.Name, outcome(j))
		default:
			return false
		}
		return true
	})
}

// outcome is how a Job has ended; "" is not yet.
func outcome(j *batchv1.Job) batchv1.JobConditionType {
	for _, c := range j.Status.Conditions {
		if c.Status == corev1.ConditionTrue && (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) {
			return c.Type
		}
	}
	return ""
}

// tidy has the oldest Jobs that have ended in a way deleted, but for so many.
func (p *plan) tidy(jobs []*batchv1.Job, how batchv1.JobConditionType, keep *int32) {
	if keep == nil {
		return
	}
	ended := slices.DeleteFunc(slices.Clone(jobs), func(j *batchv1.Job) bool { return outcome(j) != how || j.DeletionTimestamp != nil })
	slices.SortFunc(ended, func(a, b *batchv1.Job) int { return begun(a).Compare(begun(b)) })
	p.delete = append(p.delete, ended[:max(0, len(ended)-int(*keep))]...)
}

func begun(j *batchv1.Job) time.Time {
	if j.Status.StartTime != nil {
		return j.Status.StartTime.Time
	}
	return j.CreationTimestamp.Time
}

// schedule makes a Job when one is due.
func (p *plan) schedule(c *batchv1.CronJob, s crontab.Schedule, jobs []*batchv1.Job, now time.Time) {
	since := c.CreationTimestamp.Time
	if c.Status.LastScheduleTime != nil {
		since = c.Status.LastScheduleTime.Time
	}
	if d := c.Spec.StartingDeadlineSeconds; d != nil {
		if soonest := now.Add(-time.Duration(*d) * time.Second); soonest.After(since) {
			since = soonest
		}
	}
	due, missed := s.Due(since, now)
	if missed > crontab.ManyMissed {
		p.tell(corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if due.IsZero() {
		return
	}
	if c.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(p.status.Active) > 0 {
		p.tell(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return
	}
	if c.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
		for _, r := range p.status.Active {
			if i := slices.IndexFunc(jobs, func(j *batchv1.Job) bool { return j.UID == r.UID }); i >= 0 {
				p.delete = append(p.delete, jobs[i])
			}
		}
		p.status.Active = nil
	}
	p.create, p.due = jobFor(c, due), due
}

// jobFor is the Job of a run. Its name is always the same for a CronJob and a
// minute, so that to start it twice is one Job.
func jobFor(c *batchv1.CronJob, due time.Time) *batchv1.Job {
	t := c.Spec.JobTemplate.DeepCopy()
	annotations := maps.Clone(t.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	at := due
	if c.Spec.TimeZone == nil {
		at = due.UTC()
	}
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.Format(time.RFC3339)
	return &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: c.Namespace, Name: fmt.Sprintf("%s-%d", c.Name, due.Unix()/60),
			Labels: t.Labels, Annotations: annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(c, api.CronJobs.GVK())},
		},
		Spec: t.Spec,
	}
}
