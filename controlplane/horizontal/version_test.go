package horizontal

import (
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What version 2 says comes back from version 1.
func TestVersionsLoseNothing(t *testing.T) {
	use := func(v string, u *int32) autoscalingv2.MetricValueStatus {
		return autoscalingv2.MetricValueStatus{AverageValue: new(resource.MustParse(v)), AverageUtilization: u}
	}
	a := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Annotations: map[string]string{"mine": "x", annotationMetrics: "not this"}},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"},
			MinReplicas:    new(int32(2)), MaxReplicas: 7,
			Metrics: []autoscalingv2.MetricSpec{
				{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceMemory, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: new(resource.MustParse("1Gi"))}}},
				{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: corev1.ResourceCPU, Container: "c", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(40))}}},
				{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(60))}}},
			},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{
				StabilizationWindowSeconds: new(int32(9)), SelectPolicy: new(autoscalingv2.MinChangePolicySelect), Tolerance: new(resource.MustParse("50m")),
				Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 1, PeriodSeconds: 30}},
			}},
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: new(int64(3)), LastScaleTime: new(metav1.Unix(5, 0)), CurrentReplicas: 2, DesiredReplicas: 3,
			CurrentMetrics: []autoscalingv2.MetricStatus{
				{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{Name: corev1.ResourceMemory, Current: use("2Gi", nil)}},
				{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: corev1.ResourceCPU, Container: "c", Current: use("20m", new(int32(30)))}},
				{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{Name: corev1.ResourceCPU, Current: use("70m", new(int32(70)))}},
			},
			Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.AbleToScale, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Unix(6, 0), Reason: "R", Message: "m"}},
		},
	}
	one := ToV1(a)
	if s := one.Spec; *s.TargetCPUUtilizationPercentage != 60 || *s.MinReplicas != 2 || s.MaxReplicas != 7 || s.ScaleTargetRef.Name != "d" {
		t.Errorf("the spec in version 1: %+v", s)
	}
	if s := one.Status; *s.CurrentCPUUtilizationPercentage != 70 || s.CurrentReplicas != 2 || s.DesiredReplicas != 3 || *s.ObservedGeneration != 3 {
		t.Errorf("the status in version 1: %+v", s)
	}
	const metrics = `[{"type":"Resource","resource":{"name":"memory","targetAverageValue":"1Gi"}},{"type":"ContainerResource","containerResource":{"name":"cpu","targetAverageUtilization":40,"container":"c"}}]`
	if got := one.Annotations[annotationMetrics]; got != metrics {
		t.Errorf("the annotation: %s", got)
	}
	want := a.DeepCopy()
	want.Annotations = map[string]string{"mine": "x"}
	if got := FromV1(one); !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("back from version 1:\n%+v\nwant\n%+v", got, want)
	}
}

func TestFromV1(t *testing.T) {
	// As Kubernetes writes the behaviour, and an annotation that nobody can read.
	got := FromV1(&autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
			annotationBehavior: `{"ScaleUp":{"StabilizationWindowSeconds":7,"Policies":[{"Type":"Pods","Value":2,"PeriodSeconds":8}]},"ScaleDown":null}`,
			annotationMetrics:  `{`,
		}},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{CurrentCPUUtilizationPercentage: new(int32(5))},
	})
	if b := got.Spec.Behavior; b == nil || *b.ScaleUp.StabilizationWindowSeconds != 7 || b.ScaleUp.Policies[0].PeriodSeconds != 8 {
		t.Errorf("behaviour: %+v", b)
	}
	if len(got.Spec.Metrics) != 0 || got.Annotations != nil || *got.Status.CurrentMetrics[0].Resource.Current.AverageUtilization != 5 {
		t.Errorf("the rest: %+v", got)
	}
	got = FromV1(&autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annotationMetrics: `[{"type":"External","external":{"metricName":"q"}}]`}}})
	if len(got.Spec.Metrics) != 1 || got.Spec.Metrics[0].Type != autoscalingv2.ExternalMetricSourceType {
		t.Errorf("a metric that is not known here: %+v", got.Spec.Metrics)
	}
}
