package apiserver

import (
	"fmt"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/podsnap/podsnap/api"
)

func jobColumns(name, since column) []column {
	took := column{
		metav1.TableColumnDefinition{Name: "Duration", Type: "string"},
		func(obj api.Object, now time.Time) any { return jobDuration(&obj.(*batchv1.Job).Status, now) },
	}
	return append([]column{
		name,
		col("Status", "string", func(j *batchv1.Job) any { return jobStatus(j) }),
		col("Completions", "string", func(j *batchv1.Job) any { return completions(j) }),
		took, since,
	}, templateColumns(func(j *batchv1.Job) (*corev1.PodSpec, string) {
		return &j.Spec.Template.Spec, metav1.FormatLabelSelector(j.Spec.Selector)
	})...)
}

// jobStatus is the one word that says how a Job is.
func jobStatus(j *batchv1.Job) string {
	for _, t := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if holds(j, t) {
			return string(t)
		}
	}
	if j.DeletionTimestamp != nil {
		return "Terminating"
	}
	for _, t := range []batchv1.JobConditionType{batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if holds(j, t) {
			return string(t)
		}
	}
	return "Running"
}

func holds(j *batchv1.Job, t batchv1.JobConditionType) bool {
	for _, c := range j.Status.Conditions {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func completions(j *batchv1.Job) string {
	switch s := &j.Spec; {
	case s.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *s.Completions)
	case count(s.Parallelism) > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *s.Parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(s *batchv1.JobStatus, now time.Time) string {
	switch {
	case s.StartTime == nil:
		return ""
	case s.CompletionTime != nil:
		now = s.CompletionTime.Time
	}
	for _, c := range s.Conditions {
		if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
			now = c.LastTransitionTime.Time
		}
	}
	return duration.HumanDuration(now.Sub(s.StartTime.Time))
}

func cronJobColumns(name, since column) []column {
	last := column{
		metav1.TableColumnDefinition{Name: "Last Schedule", Type: "string"},
		func(obj api.Object, now time.Time) any {
			t := obj.(*batchv1.CronJob).Status.LastScheduleTime
			if t == nil {
				return "<none>"
			}
			return age(t.Time, now)
		},
	}
	return append([]column{
		name,
		col("Schedule", "string", func(c *batchv1.CronJob) any { return c.Spec.Schedule }),
		col("Timezone", "string", func(c *batchv1.CronJob) any { return none(deref(c.Spec.TimeZone)) }),
		col("Suspend", "string", func(c *batchv1.CronJob) any {
			if c.Spec.Suspend != nil && *c.Spec.Suspend {
				return "True"
			}
			return "False"
		}),
		col("Active", "integer", func(c *batchv1.CronJob) any { return len(c.Status.Active) }),
		last, since,
	}, templateColumns(func(c *batchv1.CronJob) (*corev1.PodSpec, string) {
		return &c.Spec.JobTemplate.Spec.Template.Spec, metav1.FormatLabelSelector(c.Spec.JobTemplate.Spec.Selector)
	})...)
}

func autoscalerColumns(name, since column) []column {
	return []column{
		name,
		col("Reference", "string", func(h *autoscalingv2.HorizontalPodAutoscaler) any {
			return h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name
		}),
		col("Targets", "string", func(h *autoscalingv2.HorizontalPodAutoscaler) any { return targets(h) }),
		col("MinPods", "string", func(h *autoscalingv2.HorizontalPodAutoscaler) any {
			if h.Spec.MinReplicas == nil {
				return "<unset>"
			}
			return fmt.Sprint(*h.Spec.MinReplicas)
		}),
		col("MaxPods", "integer", func(h *autoscalingv2.HorizontalPodAutoscaler) any { return h.Spec.MaxReplicas }),
		col("Replicas", "integer", func(h *autoscalingv2.HorizontalPodAutoscaler) any { return h.Status.CurrentReplicas }),
		since,
	}
}

// targets shows each metric as what it is and what it should be.
func targets(h *autoscalingv2.HorizontalPodAutoscaler) string {
	var out []string
	for _, m := range h.Spec.Metrics {
		name, want := targetOf(&m)
		out = append(out, string(name)+": "+measured(h, &m, want)+"/"+wanted(want))
	}
	if len(out) > 2 {
		return strings.Join(out[:2], ", ") + fmt.Sprintf(" + %d more...", len(out)-2)
	}
	return none(strings.Join(out, ", "))
}

func targetOf(m *autoscalingv2.MetricSpec) (corev1.ResourceName, *autoscalingv2.MetricTarget) {
	switch {
	case m.ContainerResource != nil:
		return m.ContainerResource.Name, &m.ContainerResource.Target
	case m.Resource != nil:
		return m.Resource.Name, &m.Resource.Target
	}
	return "", &autoscalingv2.MetricTarget{}
}

func wanted(t *autoscalingv2.MetricTarget) string {
	switch {
	case t.AverageUtilization != nil:
		return fmt.Sprintf("%d%%", *t.AverageUtilization)
	case t.AverageValue != nil:
		return t.AverageValue.String()
	}
	return "<auto>"
}

func measured(h *autoscalingv2.HorizontalPodAutoscaler, m *autoscalingv2.MetricSpec, want *autoscalingv2.MetricTarget) string {
	for _, s := range h.Status.CurrentMetrics {
		var now *autoscalingv2.MetricValueStatus
		switch {
		case m.Resource != nil && s.Resource != nil && s.Resource.Name == m.Resource.Name:
			now = &s.Resource.Current
		case m.ContainerResource != nil && s.ContainerResource != nil && s.ContainerResource.Name == m.ContainerResource.Name && s.ContainerResource.Container == m.ContainerResource.Container:
			now = &s.ContainerResource.Current
		default:
			continue
		}
		switch {
		case want.AverageUtilization != nil && now.AverageUtilization != nil:
			return fmt.Sprintf("%d%%", *now.AverageUtilization)
		case want.AverageValue != nil && now.AverageValue != nil:
			return now.AverageValue.String()
		}
	}
	return "<unknown>"
}
