package job

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// find is a condition of the type; nil when there is none.
func find(st *batchv1.JobStatus, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range st.Conditions {
		if st.Conditions[i].Type == t {
			return &st.Conditions[i]
		}
	}
	return nil
}

// first is the first of some conditions that is true; nil when none is.
func first(st *batchv1.JobStatus, types ...batchv1.JobConditionType) *batchv1.JobCondition {
	for _, t := range types {
		if c := find(st, t); c != nil && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// finished is the condition that says that a Job is over; nil when it is not.
func finished(st *batchv1.JobStatus) *batchv1.JobCondition {
	return first(st, batchv1.JobComplete, batchv1.JobFailed)
}

// ending is the condition that says how a Job is going to be over.
func ending(st *batchv1.JobStatus) *batchv1.JobCondition {
	return first(st, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet)
}

// condition makes a condition true and answers with a copy of it.
func (r *round) condition(t batchv1.JobConditionType, reason, message string) *batchv1.JobCondition {
	r.set(t, corev1.ConditionTrue, reason, message)
	c := *find(&r.plan.status, t)
	return &c
}

// set writes a condition; it reports whether it was another one.
func (r *round) set(t batchv1.JobConditionType, s corev1.ConditionStatus, reason, message string) bool {
	now := *r.stamp()
	next := batchv1.JobCondition{Type: t, Status: s, Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now}
	c := find(&r.plan.status, t)
	switch {
	case c == nil:
		r.plan.status.Conditions = append(r.plan.status.Conditions, next)
		return true
	case c.Status == s && c.Reason == reason:
		return false
	}
	*c = next
	return true
}
