package api

import (
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// The kinds that say how much a namespace may use, and which pods come first.
var (
	LimitRanges = &Resource{
		Version: "v1", Kind: "LimitRange", Plural: "limitranges", Singular: "limitrange", Short: []string{"limits"}, Namespaced: true,
		New: func() Object { return &corev1.LimitRange{} }, NewList: func() runtime.Object { return &corev1.LimitRangeList{} },
	}
	ResourceQuotas = &Resource{
		Version: "v1", Kind: "ResourceQuota", Plural: "resourcequotas", Singular: "resourcequota", Short: []string{"quota"}, Namespaced: true, Status: true,
		New: func() Object { return &corev1.ResourceQuota{} }, NewList: func() runtime.Object { return &corev1.ResourceQuotaList{} },
	}
	PriorityClasses = &Resource{
		Group: "scheduling.k8s.io", Version: "v1", Kind: "PriorityClass", Plural: "priorityclasses", Singular: "priorityclass", Short: []string{"pc"},
		New: func() Object { return &schedulingv1.PriorityClass{} }, NewList: func() runtime.Object { return &schedulingv1.PriorityClassList{} },
	}
)
