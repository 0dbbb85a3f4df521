package admission

import (
	"fmt"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/controlplane/crontab"
	"github.com/podsnap/podsnap/controlplane/indexes"
)

const (
	mostIndexedParallel = 100_000
	mostRules           = 20
	mostExitCodes       = 255

	// Where failures are counted by index the status has to hold all of those that
	// have failed: beyond so many completions fewer may, and fewer pods run at once.
	manyCompletions  = 100_000
	mostFailedOfMany = 10_000
	longestCronJob   = 63 - 11 // the names of its Jobs are longer by the time
)

func validateJob(j *batchv1.Job) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateJobSpec(&j.Spec, spec)
	errs = append(errs, validateJobSelector(j, spec)...)
	if s := &j.Spec; s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion && s.Completions != nil && *s.Completions > 0 {
		host := fmt.Sprintf("%s-%d", j.Name, *s.Completions-1)
		errs = append(errs, invalid(field.NewPath("metadata", "name"), j.Name, prefixed("its pods would have invalid host names: ", validation.IsDNS1123Label(host)))...)
	}
	return errs
}

func prefixed(with string, messages []string) []string {
	for i := range messages {
		messages[i] = with + messages[i]
	}
	return messages
}

// validateJobSelector checks that a Job selects its own pods and no other's.
func validateJobSelector(j *batchv1.Job, spec *field.Path) field.ErrorList {
	s := &j.Spec
	errs := validateSelector(s.Selector, s.Template.Labels, spec)
	if s.ManualSelector != nil && *s.ManualSelector || s.Selector == nil || j.UID == "" {
		return errs
	}
	if s.Selector.MatchLabels[batchv1.ControllerUidLabel] != string(j.UID) && s.Selector.MatchLabels[legacyControllerUID] != string(j.UID) {
		errs = append(errs, field.Invalid(spec.Child("selector"), s.Selector, "`selector` is generated; to choose one set `manualSelector`"))
	}
	for k, want := range map[string]string{batchv1.ControllerUidLabel: string(j.UID), batchv1.JobNameLabel: j.Name} {
		if got := s.Template.Labels[k]; got != want {
			errs = append(errs, field.Invalid(spec.Child("template", "metadata", "labels").Key(k), got, "is generated, and must be "+want+": leave it out"))
		}
	}
	return errs
}

func validateJobSpec(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, v := range map[string]*int32{
		"parallelism": s.Parallelism, "completions": s.Completions, "backoffLimit": s.BackoffLimit, "ttlSecondsAfterFinished": s.TTLSecondsAfterFinished,
		"backoffLimitPerIndex": s.BackoffLimitPerIndex, "maxFailedIndexes": s.MaxFailedIndexes,
	} {
		if v != nil {
			errs = append(errs, atLeast(int64(*v), 0, p.Child(name))...)
		}
	}
	if d := s.ActiveDeadlineSeconds; d != nil {
		errs = append(errs, atLeast(*d, 0, p.Child("activeDeadlineSeconds"))...)
	}
	if m := s.ManagedBy; m != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(p.Child("managedBy"), *m)...)
	}
	errs = append(errs, oneOf(*s.CompletionMode, p.Child("completionMode"), batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)...)
	errs = append(errs, oneOf(*s.PodReplacementPolicy, p.Child("podReplacementPolicy"), batchv1.TerminatingOrFailed, batchv1.Failed)...)
	errs = append(errs, validateIndexed(s, p)...)
	errs = append(errs, validateFailurePolicy(s, p)...)
	errs = append(errs, validateSuccessPolicy(s, p.Child("successPolicy"))...)
	return append(errs, validateAnyTemplate(&s.Template, p.Child("template"), corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
}

// validateIndexed checks what only Jobs with an index for each completion have.
func validateIndexed(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if *s.CompletionMode != batchv1.IndexedCompletion {
		for name, set := range map[string]bool{"backoffLimitPerIndex": s.BackoffLimitPerIndex != nil, "successPolicy": s.SuccessPolicy != nil} {
			if set {
				errs = append(errs, field.Invalid(p.Child(name), "", "requires the completion mode Indexed"))
			}
		}
	}
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(p.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "requires `backoffLimitPerIndex`"))
	}
	if *s.CompletionMode != batchv1.IndexedCompletion {
		return errs
	}
	if s.Completions == nil {
		return append(errs, field.Required(p.Child("completions"), "when the completion mode is Indexed"))
	}
	if *s.Parallelism > mostIndexedParallel {
		errs = append(errs, field.Invalid(p.Child("parallelism"), *s.Parallelism, fmt.Sprintf("must be less than or equal to %d when the completion mode is Indexed", mostIndexedParallel)))
	}
	if s.BackoffLimitPerIndex == nil {
		return errs
	}
	if m := s.MaxFailedIndexes; m != nil && *m > *s.Completions {
		errs = append(errs, field.Invalid(p.Child("maxFailedIndexes"), *m, "must be less than or equal to `completions`"))
	}
	if *s.Completions <= manyCompletions {
		return errs
	}
	if *s.Parallelism > mostFailedOfMany {
		errs = append(errs, field.Invalid(p.Child("parallelism"), *s.Parallelism, fmt.Sprintf("must be less than or equal to %d for more than %d completions with `backoffLimitPerIndex`", mostFailedOfMany, manyCompletions)))
	}
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(p.Child("maxFailedIndexes"), fmt.Sprintf("for more than %d completions with `backoffLimitPerIndex`", manyCompletions)))
	} else if *s.MaxFailedIndexes > mostFailedOfMany {
		errs = append(errs, field.Invalid(p.Child("maxFailedIndexes"), *s.MaxFailedIndexes, fmt.Sprintf("must be less than or equal to %d for more than %d completions", mostFailedOfMany, manyCompletions)))
	}
	return errs
}

func validateFailurePolicy(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	if s.PodFailurePolicy == nil {
		return nil
	}
	var errs field.ErrorList
	if s.Template.Spec.RestartPolicy != corev1.RestartPolicyNever {
		errs = append(errs, field.Invalid(p.Child("template", "spec", "restartPolicy"), s.Template.Spec.RestartPolicy, "must be Never when `podFailurePolicy` is set"))
	}
	if *s.PodReplacementPolicy != batchv1.Failed {
		errs = append(errs, field.NotSupported(p.Child("podReplacementPolicy"), *s.PodReplacementPolicy, []batchv1.PodReplacementPolicy{batchv1.Failed}))
	}
	rules := p.Child("podFailurePolicy", "rules")
	if n := len(s.PodFailurePolicy.Rules); n > mostRules {
		errs = append(errs, field.TooMany(rules, n, mostRules))
	}
	for i := range s.PodFailurePolicy.Rules {
		errs = append(errs, validateFailureRule(s, &s.PodFailurePolicy.Rules[i], rules.Index(i))...)
	}
	return errs
}

func validateFailureRule(s *batchv1.JobSpec, r *batchv1.PodFailurePolicyRule, p *field.Path) field.ErrorList {
	errs := oneOf(r.Action, p.Child("action"), batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
	if r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(p.Child("action"), r.Action, "requires `backoffLimitPerIndex`"))
	}
	switch {
	case r.OnExitCodes == nil && len(r.OnPodConditions) == 0:
		return append(errs, field.Invalid(p, "", "specifying one of onExitCodes and onPodConditions is required"))
	case r.OnExitCodes != nil && len(r.OnPodConditions) > 0:
		errs = append(errs, field.Invalid(p, "", "specifying both onExitCodes and onPodConditions is not supported"))
	}
	if r.OnExitCodes != nil {
		errs = append(errs, validateExitCodes(s, r.OnExitCodes, p.Child("onExitCodes"))...)
	}
	for i, c := range r.OnPodConditions {
		at := p.Child("onPodConditions").Index(i)
		errs = append(errs, invalid(at.Child("type"), c.Type, validation.IsQualifiedName(string(c.Type)))...)
		errs = append(errs, oneOf(c.Status, at.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
	}
	if n := len(r.OnPodConditions); n > mostRules {
		errs = append(errs, field.TooMany(p.Child("onPodConditions"), n, mostRules))
	}
	return errs
}

func validateExitCodes(s *batchv1.JobSpec, x *batchv1.PodFailurePolicyOnExitCodesRequirement, p *field.Path) field.ErrorList {
	errs := oneOf(x.Operator, p.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	named := func(c *corev1.Container) bool { return c.Name == *x.ContainerName }
	if x.ContainerName != nil && !slices.ContainsFunc(containers(&s.Template.Spec), named) {
		errs = append(errs, field.Invalid(p.Child("containerName"), *x.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	values := p.Child("values")
	switch n := len(x.Values); {
	case n == 0:
		errs = append(errs, field.Invalid(values, x.Values, "at least one value is required"))
	case n > mostExitCodes:
		errs = append(errs, field.TooMany(values, n, mostExitCodes))
	}
	for i, v := range x.Values {
		switch {
		case v == 0 && x.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn:
			errs = append(errs, field.Invalid(values.Index(i), v, "must not be 0 for the In operator"))
		case i > 0 && x.Values[i-1] == v:
			errs = append(errs, field.Duplicate(values.Index(i), v))
		case i > 0 && x.Values[i-1] > v:
			errs = append(errs, field.Invalid(values, x.Values, "must be ordered"))
		}
	}
	return errs
}

func validateSuccessPolicy(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	if s.SuccessPolicy == nil {
		return nil
	}
	rules := p.Child("rules")
	var errs field.ErrorList
	switch n := len(s.SuccessPolicy.Rules); {
	case n == 0:
		errs = append(errs, field.Required(rules, "at least one rule must be specified when `successPolicy` is"))
	case n > mostRules:
		errs = append(errs, field.TooMany(rules, n, mostRules))
	}
	total := 0
	if s.Completions != nil {
		total = int(*s.Completions)
	}
	for i, r := range s.SuccessPolicy.Rules {
		at, of := rules.Index(i), total
		if r.SucceededCount == nil && r.SucceededIndexes == nil {
			errs = append(errs, field.Required(at, "at least one of succeededCount and succeededIndexes must be specified"))
		}
		if r.SucceededIndexes != nil {
			set, err := indexes.Parse(*r.SucceededIndexes, total)
			if err != nil {
				errs = append(errs, field.Invalid(at.Child("succeededIndexes"), *r.SucceededIndexes, err.Error()))
				continue
			}
			of = set.Len()
		}
		if n := r.SucceededCount; n != nil && (*n < 1 || int(*n) > of) {
			errs = append(errs, field.Invalid(at.Child("succeededCount"), *n, "must be between 1 and "+strconv.Itoa(of)+", the number of indexes that it is about"))
		}
	}
	return errs
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	spec := field.NewPath("spec")
	s, was := &j.Spec, &old.Spec
	var errs field.ErrorList
	for name, v := range map[string][2]any{
		"selector": {s.Selector, was.Selector}, "completionMode": {s.CompletionMode, was.CompletionMode},
		"podFailurePolicy": {s.PodFailurePolicy, was.PodFailurePolicy}, "successPolicy": {s.SuccessPolicy, was.SuccessPolicy},
		"backoffLimitPerIndex": {s.BackoffLimitPerIndex, was.BackoffLimitPerIndex}, "managedBy": {s.ManagedBy, was.ManagedBy},
	} {
		errs = append(errs, immutable(v[0], v[1], spec.Child(name))...)
	}
	elastic := *s.CompletionMode == batchv1.IndexedCompletion && s.Completions != nil && was.Completions != nil && *s.Completions == *s.Parallelism
	if faults := immutable(s.Completions, was.Completions, spec.Child("completions")); len(faults) > 0 && !elastic {
		if *s.CompletionMode == batchv1.IndexedCompletion {
			faults[0].Detail = "can only be modified in tandem with `parallelism`"
		}
		errs = append(errs, faults...)
	}
	return append(errs, immutable(templateToCompare(j, old), was.Template, spec.Child("template"))...)
}

// templateToCompare is a Job's template without what may change as long as it has
// not begun: where its pods are to run.
func templateToCompare(j, old *batchv1.Job) corev1.PodTemplateSpec {
	if old.Spec.Suspend == nil || !*old.Spec.Suspend || old.Status.StartTime != nil {
		return j.Spec.Template
	}
	t, was := *j.Spec.Template.DeepCopy(), &old.Spec.Template
	t.Labels, t.Annotations = was.Labels, was.Annotations
	t.Spec.NodeSelector, t.Spec.Tolerations = was.Spec.NodeSelector, was.Spec.Tolerations
	t.Spec.Affinity, t.Spec.SchedulingGates = was.Spec.Affinity, was.Spec.SchedulingGates
	return t
}

func validateCronJob(c *batchv1.CronJob) field.ErrorList {
	spec := field.NewPath("spec")
	s := &c.Spec
	var errs field.ErrorList
	if len(c.Name) > longestCronJob {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, fmt.Sprintf("must be no more than %d characters", longestCronJob)))
	}
	if s.Schedule == "" {
		errs = append(errs, field.Required(spec.Child("schedule"), ""))
	} else if _, err := crontab.Parse(s.Schedule, ""); err != nil {
		errs = append(errs, field.Invalid(spec.Child("schedule"), s.Schedule, err.Error()))
	}
	if z := s.TimeZone; z != nil {
		if *z == "" {
			errs = append(errs, field.Invalid(spec.Child("timeZone"), *z, "timeZone must be nil or non-empty string"))
		} else if _, err := crontab.Zone(*z); err != nil {
			errs = append(errs, field.Invalid(spec.Child("timeZone"), *z, err.Error()))
		}
	}
	if d := s.StartingDeadlineSeconds; d != nil {
		errs = append(errs, atLeast(*d, 0, spec.Child("startingDeadlineSeconds"))...)
	}
	errs = append(errs, oneOf(s.ConcurrencyPolicy, spec.Child("concurrencyPolicy"), batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	errs = append(errs, atLeast(int64(*s.SuccessfulJobsHistoryLimit), 0, spec.Child("successfulJobsHistoryLimit"))...)
	errs = append(errs, atLeast(int64(*s.FailedJobsHistoryLimit), 0, spec.Child("failedJobsHistoryLimit"))...)
	job := spec.Child("jobTemplate", "spec")
	if s.JobTemplate.Spec.Selector != nil {
		errs = append(errs, field.Invalid(job.Child("selector"), s.JobTemplate.Spec.Selector, "is generated for each Job: leave it out"))
	}
	if *s.JobTemplate.Spec.ManualSelector {
		errs = append(errs, field.Invalid(job.Child("manualSelector"), true, "must be false: the selector of each Job is generated"))
	}
	return append(errs, validateJobSpec(&s.JobTemplate.Spec, job)...)
}
