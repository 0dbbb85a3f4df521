package job

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/podsnap/podsnap/controlplane/indexes"
	"github.com/podsnap/podsnap/controlplane/podstate"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// mostUncounted is how many pods a status may hold that are not counted yet; the
// others wait.
const mostUncounted = 500

// count is a Job's account of its pods: what has ended and what is left. It
// never counts a pod twice, whatever is lost between two writes:
//
//  1. A pod that has ended is noted by its UID in the status, while it has the
//     finalizer.
//  2. Then it loses the finalizer.
//  3. Then, when the mirror shows it without, or not at all, its UID goes and
//     the number grows, in one write.
//
// A succeeded pod of an Indexed Job is noted by its index, which cannot count
// twice.
type count struct {
	job  *batchv1.Job
	pods []*corev1.Pod

	status  *batchv1.JobStatus // as it is to become
	waits   *batchv1.UncountedTerminatedPods
	limit   int // of the indexes
	done    indexes.Set
	lost    indexes.Set   // indexes that have failed
	latest  map[int]int   // failures before the newest pod of each index, where they are counted so
	release []*corev1.Pod // whose finalizer may go when status is stored
	held    bool          // there are pods that have ended and wait to be noted
	fails   string        // why the Job has failed by its pod failure policy; "" is not at all
}

func indexed(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}

func perIndex(j *batchv1.Job) bool { return indexed(j) && j.Spec.BackoffLimitPerIndex != nil }

// replacesFailedOnly tells whether a pod is replaced only when it has ended, not
// while it is ending.
func replacesFailedOnly(j *batchv1.Job) bool {
	return j.Spec.PodReplacementPolicy != nil && *j.Spec.PodReplacementPolicy == batchv1.Failed
}

func tracked(p *corev1.Pod) bool { return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) }

// indexOf is a pod's completion index; -1 is none.
func indexOf(p *corev1.Pod) int {
	n, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// failuresOf is how many pods of its index have failed before a pod: those that
// count and those that the policy has ignored.
func failuresOf(p *corev1.Pod) (counted, ignored int) {
	counted, _ = strconv.Atoi(p.Annotations[batchv1.JobIndexFailureCountAnnotation])
	ignored, _ = strconv.Atoi(p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation])
	return max(counted, 0), max(ignored, 0)
}

func newCount(j *batchv1.Job, pods []*corev1.Pod, status *batchv1.JobStatus) *count {
	c := &count{job: j, pods: pods, status: status, waits: status.UncountedTerminatedPods.DeepCopy()}
	if c.waits == nil {
		c.waits = &batchv1.UncountedTerminatedPods{}
	}
	if indexed(j) {
		c.limit = int(*j.Spec.Completions)
		c.done = indexes.Below(status.CompletedIndexes, c.limit)
		if status.FailedIndexes != nil {
			c.lost = indexes.Below(*status.FailedIndexes, c.limit)
		}
	}
	if perIndex(j) {
		c.latest = map[int]int{}
		for _, p := range pods {
			a, b := failuresOf(p)
			c.latest[indexOf(p)] = max(c.latest[indexOf(p)], a+b)
		}
	}
	return c
}

// take works through the pods. ending is whether the Job's end is decided: then
// there is nothing to wait for.
func (c *count) take(ending bool) {
	c.settle()
	for _, p := range c.pods {
		if !tracked(p) {
			continue
		}
		switch {
		case slices.Contains(c.waits.Succeeded, p.UID), slices.Contains(c.waits.Failed, p.UID):
			c.release = append(c.release, p) // noted before
		case p.Status.Phase == corev1.PodSucceeded:
			c.succeeded(p)
		case c.hasFailed(p):
			c.failed(p, ending)
		}
	}
	c.publish()
}

// settle counts the pods that were noted and have lost their finalizer.
func (c *count) settle() {
	there := make(map[types.UID]bool, len(c.pods))
	for _, p := range c.pods {
		there[p.UID] = tracked(p)
	}
	drop := func(uids []types.UID, n *int32) []types.UID {
		return slices.DeleteFunc(uids, func(u types.UID) bool {
			if there[u] {
				return false
			}
			*n++
			return true
		})
	}
	c.waits.Succeeded = drop(c.waits.Succeeded, &c.status.Succeeded)
	c.waits.Failed = drop(c.waits.Failed, &c.status.Failed)
}

// hasFailed tells whether a pod counts as failed: one that is being deleted does,
// as it may never get to say how it has ended, unless the Job waits for that.
func (c *count) hasFailed(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil && !replacesFailedOnly(c.job)
}

func (c *count) full() bool {
	if len(c.waits.Succeeded)+len(c.waits.Failed) < mostUncounted {
		return false
	}
	c.held = true
	return true
}

func (c *count) succeeded(p *corev1.Pod) {
	if indexed(c.job) {
		if i := indexOf(p); i >= 0 && i < c.limit && !c.lost.Has(i) {
			c.done.Add(i)
		}
		c.release = append(c.release, p)
		return
	}
	if !c.full() {
		c.waits.Succeeded = append(c.waits.Succeeded, p.UID)
		c.release = append(c.release, p)
	}
}

func (c *count) failed(p *corev1.Pod, ending bool) {
	if c.full() {
		return
	}
	action, why := batchv1.PodFailurePolicyActionCount, ""
	if podstate.Ended(p) {
		action, why = judge(c.job.Spec.PodFailurePolicy, p)
	}
	if action == batchv1.PodFailurePolicyActionFailJob && c.fails == "" {
		c.fails = why
	}
	if perIndex(c.job) && !ending && c.fails == "" && !c.indexFailed(p, action) && c.newest(p) {
		c.held = true // it carries how often its index has failed, until its successor does
		return
	}
	c.release = append(c.release, p)
	if action != batchv1.PodFailurePolicyActionIgnore {
		c.waits.Failed = append(c.waits.Failed, p.UID)
	}
}

// indexFailed tells whether a pod's end was the last one that its index may have,
// and notes that.
func (c *count) indexFailed(p *corev1.Pod, action batchv1.PodFailurePolicyAction) bool {
	i := indexOf(p)
	if i < 0 || i >= c.limit || c.done.Has(i) || c.lost.Has(i) {
		return true // none of its own counts
	}
	counted, _ := failuresOf(p)
	over := action == batchv1.PodFailurePolicyActionFailIndex ||
		action != batchv1.PodFailurePolicyActionIgnore && counted >= int(*c.job.Spec.BackoffLimitPerIndex)
	if over {
		c.lost.Add(i)
	}
	return over
}

// newest tells whether no pod of the same index was made after p.
func (c *count) newest(p *corev1.Pod) bool {
	a, b := failuresOf(p)
	return a+b >= c.latest[indexOf(p)]
}

// publish puts the account into the status.
func (c *count) publish() {
	c.status.UncountedTerminatedPods = c.waits
	if !indexed(c.job) {
		return
	}
	c.status.CompletedIndexes = c.done.String()
	c.status.Succeeded = int32(c.done.Len())
	if perIndex(c.job) {
		text := c.lost.String()
		c.status.FailedIndexes = &text
	}
}

// allSucceeded and allFailed are with those that are noted only.
func (c *count) allSucceeded() int { return int(c.status.Succeeded) + len(c.waits.Succeeded) }
func (c *count) allFailed() int    { return int(c.status.Failed) + len(c.waits.Failed) }

// settled tells whether all that has ended is counted.
func (c *count) settled() bool {
	return !c.held && len(c.waits.Succeeded)+len(c.waits.Failed) == 0
}

// judge finds what a Job's policy says of a pod that has failed.
func judge(policy *batchv1.PodFailurePolicy, p *corev1.Pod) (action batchv1.PodFailurePolicyAction, why string) {
	if policy == nil {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i, r := range policy.Rules {
		if what := matches(&r, p); what != "" {
			return r.Action, fmt.Sprintf("%s matching %s rule at index %d", what, r.Action, i)
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

// matches answers with what of the pod a rule is about; "" is that it is not.
func matches(r *batchv1.PodFailurePolicyRule, p *corev1.Pod) string {
	if x := r.OnExitCodes; x != nil {
		for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
			for _, s := range list {
				t := s.State.Terminated
				if t == nil || t.ExitCode == 0 || x.ContainerName != nil && *x.ContainerName != s.Name {
					continue
				}
				if slices.Contains(x.Values, t.ExitCode) == (x.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
					return fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d", s.Name, p.Namespace, p.Name, t.ExitCode)
				}
			}
		}
		return ""
	}
	for _, want := range r.OnPodConditions {
		if c := podstate.Condition(p, want.Type); c != nil && c.Status == want.Status {
			return fmt.Sprintf("Pod %s/%s has condition %s", p.Namespace, p.Name, want.Type)
		}
	}
	return ""
}
