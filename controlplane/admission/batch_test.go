package admission

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

const podTemplate = `template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}`

func job(fields string) string {
	return "metadata: {name: j, uid: u}\nspec: {" + podTemplate + ", " + fields + "}"
}

func cron(fields string) string {
	return "metadata: {name: c}\nspec: {jobTemplate: {spec: {" + podTemplate + "}}, " + fields + "}"
}

func hpa(fields string) string {
	return "metadata: {name: h}\nspec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}, " + fields + "}"
}

func TestBatch(t *testing.T) {
	for _, c := range []struct {
		name string
		r    *api.Resource
		text string
		want []string
	}{
		{"job", api.Jobs, job(`parallelism: 0`), nil},
		{"indexed job", api.Jobs, job(`completionMode: Indexed, completions: 3, backoffLimitPerIndex: 1, maxFailedIndexes: 2, successPolicy: {rules: [{succeededIndexes: "0,2"}, {succeededCount: 3}]}, podFailurePolicy: {rules: [{action: FailIndex, onExitCodes: {containerName: c, operator: In, values: [1, 2]}}, {action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}`), nil},
		{"restart policy", api.Jobs, `{metadata: {name: j, uid: u}, spec: {template: {spec: {containers: [{name: c, image: i}]}}}}`, []string{"spec.template.spec.restartPolicy: NotSupported"}},
		{"negative numbers", api.Jobs, job(`parallelism: -1, completions: -1, backoffLimit: -1, activeDeadlineSeconds: -1, ttlSecondsAfterFinished: -1`), []string{"spec.activeDeadlineSeconds: Invalid", "spec.backoffLimit: Invalid", "spec.completions: Invalid", "spec.parallelism: Invalid", "spec.ttlSecondsAfterFinished: Invalid"}},
		{"completion mode", api.Jobs, job(`completionMode: Some`), []string{"spec.completionMode: NotSupported"}},
		{"indexed without completions", api.Jobs, job(`completionMode: Indexed, parallelism: 1`), []string{"spec.completions: Required"}},
		{"indexed with a long name", api.Jobs, "metadata: {uid: u, name: " + strings.Repeat("j", 62) + "}\nspec: {completionMode: Indexed, completions: 11, " + podTemplate + "}", []string{"metadata.name: Invalid"}},
		{"limits of indexes without any", api.Jobs, job(`backoffLimitPerIndex: 1, successPolicy: {rules: [{succeededCount: 1}]}`), []string{"spec.backoffLimitPerIndex: Invalid", "spec.successPolicy: Invalid"}},
		{"failed indexes without a limit", api.Jobs, job(`completionMode: Indexed, completions: 3, maxFailedIndexes: 1`), []string{"spec.maxFailedIndexes: Invalid"}},
		{"more failed indexes than there are", api.Jobs, job(`completionMode: Indexed, completions: 3, backoffLimitPerIndex: 1, maxFailedIndexes: 4`), []string{"spec.maxFailedIndexes: Invalid"}},
		{"very many indexes", api.Jobs, job(`completionMode: Indexed, completions: 200000, parallelism: 20000, backoffLimitPerIndex: 1`), []string{"spec.maxFailedIndexes: Required", "spec.parallelism: Invalid"}},
		{"selector of its own", api.Jobs, job(`selector: {matchLabels: {a: b}}`), []string{"spec.selector: Invalid", "spec.template.metadata.labels: Invalid"}},
		{"selector by hand", api.Jobs, "metadata: {name: j, uid: u}\nspec: {manualSelector: true, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}", nil},
		{"labels of another job", api.Jobs, "metadata: {name: j, uid: u}\nspec: {template: {metadata: {labels: {batch.kubernetes.io/job-name: x}}, spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}", []string{"spec.template.metadata.labels[batch.kubernetes.io/job-name]: Invalid"}},
		{"failure policy with restarts", api.Jobs, `{metadata: {name: j, uid: u}, spec: {podFailurePolicy: {rules: []}, podReplacementPolicy: TerminatingOrFailed, template: {spec: {restartPolicy: OnFailure, containers: [{name: c, image: i}]}}}}`, []string{"spec.podReplacementPolicy: NotSupported", "spec.template.spec.restartPolicy: Invalid"}},
		{"failure rules", api.Jobs, job(`podFailurePolicy: {rules: [{action: FailIndex, onExitCodes: {operator: In, values: [0]}}, {action: Maybe}, {action: Count, onExitCodes: {containerName: x, operator: NotIn, values: []}, onPodConditions: [{type: a}]}, {action: Count, onExitCodes: {operator: In, values: [2, 2, 1]}}]}`), []string{
			"spec.podFailurePolicy.rules[0].action: Invalid", "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid",
			"spec.podFailurePolicy.rules[1]: Invalid", "spec.podFailurePolicy.rules[1].action: NotSupported",
			"spec.podFailurePolicy.rules[2]: Invalid", "spec.podFailurePolicy.rules[2].onExitCodes.containerName: Invalid", "spec.podFailurePolicy.rules[2].onExitCodes.values: Invalid",
			"spec.podFailurePolicy.rules[3].onExitCodes.values: Invalid", "spec.podFailurePolicy.rules[3].onExitCodes.values[1]: Duplicate",
		}},
		{"success rules", api.Jobs, job(`completionMode: Indexed, completions: 3, successPolicy: {rules: [{}, {succeededIndexes: "1-5"}, {succeededIndexes: "0-1", succeededCount: 3}]}`), []string{"spec.successPolicy.rules[0]: Required", "spec.successPolicy.rules[1].succeededIndexes: Invalid", "spec.successPolicy.rules[2].succeededCount: Invalid"}},
		{"no success rules", api.Jobs, job(`completionMode: Indexed, completions: 3, successPolicy: {rules: []}`), []string{"spec.successPolicy.rules: Required"}},
		{"managed by nobody", api.Jobs, job(`managedBy: me`), []string{"spec.managedBy: Invalid"}},

		{"cron job", api.CronJobs, cron(`schedule: "@daily", timeZone: Europe/Berlin`), nil},
		{"no schedule", api.CronJobs, cron(`schedule: ""`), []string{"spec.schedule: Required"}},
		{"schedule", api.CronJobs, cron(`schedule: "* * *"`), []string{"spec.schedule: Invalid"}},
		{"time zone in the schedule", api.CronJobs, cron(`schedule: "TZ=UTC * * * * *"`), []string{"spec.schedule: Invalid"}},
		{"time zone", api.CronJobs, cron(`schedule: "* * * * *", timeZone: Nowhere`), []string{"spec.timeZone: Invalid"}},
		{"numbers of a cron job", api.CronJobs, cron(`schedule: "* * * * *", startingDeadlineSeconds: -1, successfulJobsHistoryLimit: -1, failedJobsHistoryLimit: -1, concurrencyPolicy: Maybe`), []string{"spec.concurrencyPolicy: NotSupported", "spec.failedJobsHistoryLimit: Invalid", "spec.startingDeadlineSeconds: Invalid", "spec.successfulJobsHistoryLimit: Invalid"}},
		{"long name", api.CronJobs, "metadata: {name: " + strings.Repeat("c", 53) + "}\nspec: {schedule: '* * * * *', jobTemplate: {spec: {" + podTemplate + "}}}", []string{"metadata.name: Invalid"}},
		{"selector of its jobs", api.CronJobs, `{metadata: {name: c}, spec: {schedule: "* * * * *", jobTemplate: {spec: {manualSelector: true, selector: {matchLabels: {a: b}}, ` + podTemplate + `}}}}`, []string{"spec.jobTemplate.spec.manualSelector: Invalid", "spec.jobTemplate.spec.selector: Invalid"}},
		{"template of its jobs", api.CronJobs, `{metadata: {name: c}, spec: {schedule: "* * * * *", jobTemplate: {spec: {completions: -1, template: {spec: {containers: []}}}}}}`, []string{"spec.jobTemplate.spec.completions: Invalid", "spec.jobTemplate.spec.template.spec.containers: Required", "spec.jobTemplate.spec.template.spec.restartPolicy: NotSupported"}},

		{"autoscaler", api.HorizontalPodAutoscalers, hpa(`maxReplicas: 3`), nil},
		{"autoscaler with all", api.HorizontalPodAutoscalers, hpa(`minReplicas: 2, maxReplicas: 3, metrics: [{type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}}, {type: ContainerResource, containerResource: {name: cpu, container: c, target: {type: Utilization, averageUtilization: 50}}}], behavior: {scaleDown: {selectPolicy: Disabled}, scaleUp: {stabilizationWindowSeconds: 3600, policies: [{type: Pods, value: 1, periodSeconds: 1800}]}}`), nil},
		{"bounds", api.HorizontalPodAutoscalers, hpa(`minReplicas: 0, maxReplicas: 0`), []string{"spec.maxReplicas: Invalid", "spec.minReplicas: Invalid"}},
		{"bounds the wrong way round", api.HorizontalPodAutoscalers, hpa(`minReplicas: 3, maxReplicas: 2`), []string{"spec.maxReplicas: Invalid"}},
		{"no target", api.HorizontalPodAutoscalers, `{metadata: {name: h}, spec: {maxReplicas: 1}}`, []string{"spec.scaleTargetRef.kind: Required", "spec.scaleTargetRef.name: Required"}},
		{"function", api.HorizontalPodAutoscalers, `{metadata: {name: h}, spec: {maxReplicas: 1, scaleTargetRef: {apiVersion: openfaas.com/v1, kind: Function, name: f}}}`, []string{"spec.scaleTargetRef.kind: Invalid"}},
		{"other metrics", api.HorizontalPodAutoscalers, hpa(`maxReplicas: 3, metrics: [{type: External}, {type: Resource}]`), []string{"spec.metrics[0].type: NotSupported", "spec.metrics[1].resource: Required"}},
		{"metrics", api.HorizontalPodAutoscalers, hpa(`maxReplicas: 3, metrics: [{type: Resource, resource: {name: disk, target: {type: Value, value: 1}}}, {type: ContainerResource, containerResource: {name: cpu, target: {type: Utilization, averageUtilization: 0}}}, {type: Resource, resource: {name: cpu, target: {type: AverageValue}}}]`), []string{
			"spec.metrics[0].resource.name: NotSupported", "spec.metrics[0].resource.target.type: NotSupported", "spec.metrics[0].resource.target.value: Forbidden",
			"spec.metrics[1].containerResource.container: Required", "spec.metrics[1].containerResource.target.averageUtilization: Invalid", "spec.metrics[2].resource.target.averageValue: Required",
		}},
		{"behaviour", api.HorizontalPodAutoscalers, hpa(`maxReplicas: 3, behavior: {scaleUp: {stabilizationWindowSeconds: 3601, selectPolicy: Any, policies: [{type: Pods, value: 0, periodSeconds: 1801}, {type: Some, value: 1, periodSeconds: 1}]}}`), []string{
			"spec.behavior.scaleUp.policies[0].periodSeconds: Invalid", "spec.behavior.scaleUp.policies[0].value: Invalid", "spec.behavior.scaleUp.policies[1].type: NotSupported",
			"spec.behavior.scaleUp.selectPolicy: NotSupported", "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := causes(t, Admit(context.Background(), rules.Op(""), c.r, nil, read(t, c.r, c.text), ""))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("causes (-want +got):\n%s", d)
			}
		})
	}
}

func TestBatchUpdates(t *testing.T) {
	for _, c := range []struct {
		name, old, now string
		want           []string
	}{
		{"what may change", job(`parallelism: 1, completions: 3`), job(`parallelism: 2, completions: 3, suspend: true, backoffLimit: 1, ttlSecondsAfterFinished: 3, activeDeadlineSeconds: 3`), nil},
		{"completions", job(`completions: 3`), job(`completions: 4`), []string{"spec.completions: Invalid"}},
		{"elastic", job(`completionMode: Indexed, completions: 3, parallelism: 3`), job(`completionMode: Indexed, completions: 5, parallelism: 5`), nil},
		{"elastic, not in tandem", job(`completionMode: Indexed, completions: 3, parallelism: 3`), job(`completionMode: Indexed, completions: 5, parallelism: 3`), []string{"spec.completions: Invalid"}},
		{"mode and policies", job(`completions: 3`), job(`completionMode: Indexed, completions: 3, backoffLimitPerIndex: 1, podFailurePolicy: {rules: []}, successPolicy: {rules: [{succeededCount: 1}]}`), []string{"spec.backoffLimitPerIndex: Invalid", "spec.completionMode: Invalid", "spec.podFailurePolicy: Invalid", "spec.successPolicy: Invalid"}},
		{"template", job(`completions: 1`), strings.Replace(job(`completions: 1`), "image: i", "image: x", 1), []string{"spec.template: Invalid"}},
		{"where it runs, suspended", job(`suspend: true`), strings.Replace(job(`suspend: true`), "containers:", "nodeSelector: {a: b}, containers:", 1), nil},
		{"where it runs", job(`suspend: false`), strings.Replace(job(`suspend: false`), "containers:", "nodeSelector: {a: b}, containers:", 1), []string{"spec.template: Invalid"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := read(t, api.Jobs, c.old)
			Default(old)
			got := causes(t, Admit(context.Background(), rules.Op(""), api.Jobs, old, read(t, api.Jobs, c.now), ""))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("causes (-want +got):\n%s", d)
			}
		})
	}
}

func TestBatchDefaults(t *testing.T) {
	j := read(t, api.Jobs, job(`backoffLimitPerIndex: 1, completionMode: Indexed, completions: 2`)).(*batchv1.Job)
	Default(j)
	s := &j.Spec
	if *s.Parallelism != 1 || *s.Completions != 2 || *s.BackoffLimit != 1<<31-1 || *s.PodReplacementPolicy != batchv1.TerminatingOrFailed || s.Selector.MatchLabels[batchv1.ControllerUidLabel] != "u" ||
		s.Template.Labels["job-name"] != "j" || j.Labels["controller-uid"] != "u" {
		t.Errorf("%+v", j)
	}
	queue := read(t, api.Jobs, job(`parallelism: 2`)).(*batchv1.Job)
	if Default(queue); queue.Spec.Completions != nil || *queue.Spec.BackoffLimit != 6 {
		t.Errorf("%+v", queue.Spec)
	}
	c := read(t, api.CronJobs, cron(`schedule: "@daily"`)).(*batchv1.CronJob)
	if Default(c); c.Spec.ConcurrencyPolicy != batchv1.AllowConcurrent || *c.Spec.SuccessfulJobsHistoryLimit != 3 || *c.Spec.FailedJobsHistoryLimit != 1 ||
		c.Spec.JobTemplate.Spec.Selector != nil || len(c.Spec.JobTemplate.Spec.Template.Labels) > 0 {
		t.Errorf("%+v", c.Spec)
	}
	a := read(t, api.HorizontalPodAutoscalers, hpa(`maxReplicas: 3, behavior: {scaleDown: {stabilizationWindowSeconds: 1}}`)).(*autoscalingv2.HorizontalPodAutoscaler)
	Default(a)
	if *a.Spec.MinReplicas != 1 || *a.Spec.Metrics[0].Resource.Target.AverageUtilization != 80 || len(a.Spec.Behavior.ScaleUp.Policies) != 2 || len(a.Spec.Behavior.ScaleDown.Policies) != 1 {
		t.Errorf("%+v", a.Spec)
	}
}
