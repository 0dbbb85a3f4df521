package admission

import (
	"maps"
	"math"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels of the pods of Jobs from before they were prefixed; programs select by
// them.
const (
	legacyJobName       = "job-name"
	legacyControllerUID = "controller-uid"
)

func defaultJob(j *batchv1.Job) {
	// Until it is created a Job has no uid: the template of a CronJob has none.
	if j.UID != "" {
		selectOwn(j)
	}
	if len(j.Labels) == 0 {
		j.Labels = maps.Clone(j.Spec.Template.Labels)
	}
	defaultJobSpec(&j.Spec)
}

func defaultJobSpec(s *batchv1.JobSpec) {
	if s.Completions == nil && s.Parallelism == nil {
		orNew(&s.Completions, 1)
	}
	orNew(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		orNew(&s.BackoffLimit, math.MaxInt32)
	}
	orNew(&s.BackoffLimit, 6)
	orNew(&s.CompletionMode, batchv1.NonIndexedCompletion)
	orNew(&s.Suspend, false)
	orNew(&s.ManualSelector, false)
	if s.PodFailurePolicy != nil {
		orNew(&s.PodReplacementPolicy, batchv1.Failed)
		for i := range s.PodFailurePolicy.Rules {
			for j := range s.PodFailurePolicy.Rules[i].OnPodConditions {
				or(&s.PodFailurePolicy.Rules[i].OnPodConditions[j].Status, corev1.ConditionTrue)
			}
		}
	}
	orNew(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	defaultPodSpec(&s.Template.Spec)
}

// selectOwn gives a Job a selector that no other one has, and its pods what it
// selects, unless its writer sees to that.
func selectOwn(j *batchv1.Job) {
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector {
		return
	}
	if j.Spec.Template.Labels == nil {
		j.Spec.Template.Labels = map[string]string{}
	}
	for k, v := range map[string]string{
		batchv1.JobNameLabel: j.Name, legacyJobName: j.Name,
		batchv1.ControllerUidLabel: string(j.UID), legacyControllerUID: string(j.UID),
	} {
		if _, ok := j.Spec.Template.Labels[k]; !ok {
			j.Spec.Template.Labels[k] = v
		}
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{batchv1.ControllerUidLabel: string(j.UID)}}
	}
}

func defaultCronJob(c *batchv1.CronJob) {
	s := &c.Spec
	or(&s.ConcurrencyPolicy, batchv1.AllowConcurrent)
	orNew(&s.Suspend, false)
	orNew(&s.SuccessfulJobsHistoryLimit, 3)
	orNew(&s.FailedJobsHistoryLimit, 1)
	defaultJobSpec(&s.JobTemplate.Spec)
}
