package job

import (
	"fmt"
	"slices"
	"time"

	"github.com/podsnap/podsnap/controlplane/controller/replicas"
	"github.com/podsnap/podsnap/controlplane/indexes"
	"github.com/podsnap/podsnap/controlplane/podstate"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	burst = 500 // at most so many creations or deletions in one round

	// A pod that has failed is replaced after a time that doubles with each
	// failure since the last success.
	failureFirst = 10 * time.Second
	failureMost  = 10 * time.Minute
)

// Reasons of conditions that are no constants of the API.
const (
	reasonSuspended = "JobSuspended"
	reasonResumed   = "JobResumed"
)

// plan is what a round does, in this order: the status is stored, then pods are
// let go, then some are deleted or created.
type plan struct {
	status  batchv1.JobStatus
	events  []event
	release []*corev1.Pod // lose the finalizer
	retire  []*corev1.Pod // lose the finalizer and are deleted: they do not count
	end     []*corev1.Pod // are deleted, and count as failed
	create  []creation
	again   time.Duration // look again after it; 0 is no need
	remove  bool          // the Job itself has outlived its time
}

type event struct{ kind, reason, message string }

// creation is a pod that is to be made.
type creation struct {
	index            int // -1 is none
	counted, ignored int // failures of its index before
}

func (p *plan) later(d time.Duration) {
	if d > 0 && (p.again == 0 || d < p.again) {
		p.again = d
	}
}

func (p *plan) tell(kind, reason, format string, args ...any) {
	p.events = append(p.events, event{kind, reason, fmt.Sprintf(format, args...)})
}

// decide compares a Job with its pods. The job is as it is stored now, the pods
// may be of some time before: what of the controller's own writes they do not
// show is unseen.
func decide(j *batchv1.Job, pods []*corev1.Pod, unseen bool, now time.Time) plan {
	p := plan{status: *j.Status.DeepCopy()}
	switch {
	case j.DeletionTimestamp != nil:
		p.release = withFinalizer(pods)
		return p
	case finished(&j.Status) != nil:
		p.release = withFinalizer(pods)
		p.end = active(pods)
		p.outlived(j, now)
		return p
	}
	r := &round{plan: &p, job: j, pods: pods, active: active(pods), unseen: unseen, now: now}
	r.work()
	return p
}

// outlived says what the Job's own time to live makes of it.
func (p *plan) outlived(j *batchv1.Job, now time.Time) {
	if j.Spec.TTLSecondsAfterFinished == nil {
		return
	}
	left := finished(&j.Status).LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second).Sub(now)
	p.remove = left <= 0
	p.later(left)
}

// round is what is known while a plan for a Job that goes on is made.
type round struct {
	*plan
	*count
	job    *batchv1.Job
	pods   []*corev1.Pod
	active []*corev1.Pod
	unseen bool
	now    time.Time
}

func (r *round) work() {
	j, st := r.job, &r.plan.status
	goal := ending(st)
	r.count = newCount(j, r.pods, st)
	r.take(goal != nil)
	r.plan.release = r.count.release
	suspended := j.Spec.Suspend != nil && *j.Spec.Suspend
	if st.StartTime == nil && !suspended {
		st.StartTime = r.stamp()
	}
	if goal == nil {
		goal = r.judge(suspended)
	}
	terminating := r.observe()
	switch {
	case goal != nil:
		r.finish(goal, terminating)
	case suspended:
		r.suspend()
	default:
		r.resume()
		r.manage(int(terminating))
	}
}

func (r *round) stamp() *metav1.Time { return &metav1.Time{Time: r.now.Truncate(time.Second)} }

// observe counts the pods that have not ended.
func (r *round) observe() (terminating int32) {
	var ready int32
	for _, p := range r.active {
		if podstate.Ready(p) {
			ready++
		}
	}
	for _, p := range r.pods {
		if p.DeletionTimestamp != nil && !podstate.Ended(p) {
			terminating++
		}
	}
	st := &r.plan.status
	st.Active, st.Ready, st.Terminating = int32(len(r.active)), &ready, &terminating
	return terminating
}

// judge finds out whether the Job is to end, and how; nil is that it goes on.
func (r *round) judge(suspended bool) *batchv1.JobCondition {
	s := &r.job.Spec
	failing := func(reason, message string) *batchv1.JobCondition {
		return r.condition(batchv1.JobFailureTarget, reason, message)
	}
	switch {
	case r.fails != "":
		return failing(batchv1.JobReasonPodFailurePolicy, r.fails)
	case r.beyondLimit():
		return failing(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case s.ActiveDeadlineSeconds != nil && !suspended:
		left := r.plan.status.StartTime.Add(time.Duration(*s.ActiveDeadlineSeconds) * time.Second).Sub(r.now)
		if left <= 0 {
			return failing(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
		}
		r.later(left)
	}
	if perIndex(r.job) {
		if s.MaxFailedIndexes != nil && r.lost.Len() > int(*s.MaxFailedIndexes) {
			return failing(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
		}
		if r.lost.Len() > 0 && r.lost.Len()+r.done.Len() >= r.limit {
			return failing(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
		}
	}
	if i := r.successRule(); i >= 0 {
		return r.condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", i))
	}
	if r.complete() {
		return r.condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	}
	return nil
}

// beyondLimit tells whether pods have failed too often, those included that are
// started again where they are.
func (r *round) beyondLimit() bool {
	most := int(*r.job.Spec.BackoffLimit)
	if r.allFailed() > most {
		return true
	}
	if r.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := 0
	for _, p := range r.active {
		for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
			for i := range list {
				restarts += int(list[i].RestartCount)
			}
		}
	}
	return restarts > 0 && restarts >= most
}

// complete tells whether enough has succeeded.
func (r *round) complete() bool {
	if n := r.job.Spec.Completions; n != nil {
		return r.allSucceeded() >= int(*n)
	}
	return r.allSucceeded() > 0 && len(r.active) == 0 && !r.unseen
}

// successRule is the rule of the Job's success policy that holds; -1 is none.
func (r *round) successRule() int {
	if r.job.Spec.SuccessPolicy == nil || !indexed(r.job) {
		return -1
	}
	return slices.IndexFunc(r.job.Spec.SuccessPolicy.Rules, func(rule batchv1.SuccessPolicyRule) bool {
		of, n := r.done.Len(), 0
		if rule.SucceededIndexes != nil {
			want := indexes.Below(*rule.SucceededIndexes, r.limit)
			of, n = r.done.Within(want), want.Len()
		}
		if rule.SucceededCount != nil {
			n = int(*rule.SucceededCount)
		}
		return n > 0 && of >= n
	})
}

// finish ends all pods that run, and then the Job.
func (r *round) finish(goal *batchv1.JobCondition, terminating int32) {
	st := &r.plan.status
	r.plan.end = r.active
	if len(r.active) > 0 || terminating > 0 || r.unseen || !r.settled() || len(r.plan.release) > 0 {
		return
	}
	zero, none := int32(0), int32(0)
	st.Ready, st.Terminating, st.UncountedTerminatedPods = &zero, &none, &batchv1.UncountedTerminatedPods{}
	if goal.Type == batchv1.JobFailureTarget {
		r.condition(batchv1.JobFailed, goal.Reason, goal.Message)
		r.tell(corev1.EventTypeWarning, goal.Reason, "%s", goal.Message)
		return
	}
	r.condition(batchv1.JobComplete, goal.Reason, goal.Message)
	st.CompletionTime = r.stamp()
	r.tell(corev1.EventTypeNormal, "Completed", "Job completed")
}

func (r *round) suspend() {
	r.plan.retire = r.active
	r.plan.status.StartTime = nil
	if r.set(batchv1.JobSuspended, corev1.ConditionTrue, reasonSuspended, "Job suspended") {
		r.tell(corev1.EventTypeNormal, "Suspended", "Job suspended")
	}
}

func (r *round) resume() {
	if c := find(&r.plan.status, batchv1.JobSuspended); c == nil || c.Status != corev1.ConditionTrue {
		return
	}
	r.set(batchv1.JobSuspended, corev1.ConditionFalse, reasonResumed, "Job resumed")
	r.plan.status.StartTime = r.stamp()
	r.tell(corev1.EventTypeNormal, "Resumed", "Job resumed")
}

// manage has as many pods run as there should be.
func (r *round) manage(terminating int) {
	if r.unseen {
		return // the newest pods are not to be seen yet
	}
	running, parallel := r.active, int(*r.job.Spec.Parallelism)
	if indexed(r.job) {
		running, r.plan.retire = r.sift()
	}
	want := parallel
	switch n := r.job.Spec.Completions; {
	case n != nil:
		want = min(parallel, int(*n)-r.allSucceeded()-r.lost.Len())
	case r.allSucceeded() > 0:
		want = min(parallel, len(running)) // a queue that is empty for one is empty for all
	}
	want = max(want, 0)
	if over := len(running) - want; over > 0 {
		r.plan.retire = append(r.plan.retire, replicas.Victims(running, min(over, burst))...)
		return
	}
	missing := want - len(running)
	if replacesFailedOnly(r.job) {
		missing -= terminating
	}
	if missing = min(missing, burst); missing > 0 {
		r.fill(missing, running)
	}
}

// sift takes out the active pods that have no business: those of an index that is
// beyond the last one, that is done or failed, or that another pod has, too.
func (r *round) sift() (keep, drop []*corev1.Pod) {
	seen := map[int]bool{}
	sorted := slices.Clone(r.active)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for _, p := range sorted {
		i := indexOf(p)
		if i < 0 || i >= r.limit || r.done.Has(i) || r.lost.Has(i) || seen[i] {
			drop = append(drop, p)
			continue
		}
		seen[i] = true
		keep = append(keep, p)
	}
	return keep, drop
}

// fill makes up to n pods, as far as those that have failed allow it now.
func (r *round) fill(n int, running []*corev1.Pod) {
	if !perIndex(r.job) {
		if wait := backoff(r.pods, r.now); wait > 0 {
			r.later(wait)
			return
		}
	}
	if !indexed(r.job) {
		for range n {
			r.plan.create = append(r.plan.create, creation{index: -1})
		}
		return
	}
	taken := map[int]bool{}
	for _, p := range running {
		taken[indexOf(p)] = true
	}
	if replacesFailedOnly(r.job) {
		for _, p := range r.pods {
			if p.DeletionTimestamp != nil && !podstate.Ended(p) {
				taken[indexOf(p)] = true
			}
		}
	}
	last := r.lastFailed()
	for i := r.done.Gap(0); i < r.limit && n > 0; i = r.done.Gap(i + 1) {
		if taken[i] || r.lost.Has(i) {
			continue
		}
		c := creation{index: i}
		if f := last[i]; f != nil {
			var wait time.Duration
			if c, wait = r.successor(f); wait > 0 {
				r.later(wait)
				continue
			}
		}
		r.plan.create = append(r.plan.create, c)
		n--
	}
}

// lastFailed is the newest pod that has failed, by index, where failures are
// counted so.
func (r *round) lastFailed() map[int]*corev1.Pod {
	if !perIndex(r.job) {
		return nil
	}
	out := map[int]*corev1.Pod{}
	for _, p := range r.pods {
		if i := indexOf(p); tracked(p) && r.hasFailed(p) && r.newest(p) {
			out[i] = p
		}
	}
	return out
}

// successor is the pod after one that has failed, and how long it has to wait.
func (r *round) successor(f *corev1.Pod) (creation, time.Duration) {
	c := creation{index: indexOf(f)}
	c.counted, c.ignored = failuresOf(f)
	if action, _ := judge(r.job.Spec.PodFailurePolicy, f); action == batchv1.PodFailurePolicyActionIgnore && podstate.Ended(f) {
		c.ignored++
	} else {
		c.counted++
	}
	return c, rest(c.counted+c.ignored) - r.now.Sub(podstate.EndTime(f))
}

// backoff is how long to wait with a pod after those that have failed.
func backoff(pods []*corev1.Pod, now time.Time) time.Duration {
	var success, last time.Time
	for _, p := range pods {
		if at := podstate.EndTime(p); p.Status.Phase == corev1.PodSucceeded && at.After(success) {
			success = at
		}
	}
	n := 0
	for _, p := range pods {
		at := podstate.EndTime(p)
		if p.Status.Phase != corev1.PodFailed || !at.After(success) {
			continue
		}
		n++
		if at.After(last) {
			last = at
		}
	}
	return rest(n) - now.Sub(last)
}

// rest is the wait after the n-th failure in a row.
func rest(n int) time.Duration {
	if n == 0 {
		return 0
	}
	return min(failureMost, failureFirst<<min(n-1, 20))
}

func active(pods []*corev1.Pod) []*corev1.Pod {
	return slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool { return !podstate.Active(p) })
}

func withFinalizer(pods []*corev1.Pod) []*corev1.Pod {
	return slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool { return !tracked(p) })
}
