package api

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// The kinds of work that comes to an end, and of pods in number by their use.
var (
	Jobs = &Resource{
		Group: "batch", Version: "v1", Kind: "Job", Plural: "jobs", Singular: "job", Namespaced: true, Status: true,
		New: func() Object { return &batchv1.Job{} }, NewList: func() runtime.Object { return &batchv1.JobList{} },
	}
	CronJobs = &Resource{
		Group: "batch", Version: "v1", Kind: "CronJob", Plural: "cronjobs", Singular: "cronjob", Short: []string{"cj"}, Namespaced: true, Status: true,
		New: func() Object { return &batchv1.CronJob{} }, NewList: func() runtime.Object { return &batchv1.CronJobList{} },
	}
	HorizontalPodAutoscalers = &Resource{
		Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler", Plural: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler", Short: []string{"hpa"}, Namespaced: true, Status: true,
		New: func() Object { return &autoscalingv2.HorizontalPodAutoscaler{} }, NewList: func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },
	}
)
