package api_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

func template() *corev1.PodTemplateSpec {
	probe := &corev1.Probe{PeriodSeconds: 2}
	probe.HTTPGet = &corev1.HTTPGetAction{Path: "/_/health"}
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"faas_function": "echo", "app": "echo", "uid": "1"}, Annotations: map[string]string{"a": "b"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "echo", Image: "registry/echo:latest", ReadinessProbe: probe, LivenessProbe: probe,
			Env:       []corev1.EnvVar{{Name: "fprocess", Value: "cat"}},
			Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("64Mi")}},
		}}},
	}
}

func TestAlike(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*corev1.PodTemplateSpec)
		want   bool
	}{
		{"nothing", func(*corev1.PodTemplateSpec) {}, true},
		{"nil and empty", func(p *corev1.PodTemplateSpec) { p.Spec.Volumes, p.Finalizers = []corev1.Volume{}, []string{} }, true},
		{"another way to write a quantity", func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[0].Resources.Limits["cpu"] = resource.MustParse("1000m")
		}, true},
		{"a quantity", func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[0].Resources.Limits["cpu"] = resource.MustParse("2")
		}, false},
		{"a label", func(p *corev1.PodTemplateSpec) { p.Labels["app"] = "x" }, false},
		{"one label less", func(p *corev1.PodTemplateSpec) { delete(p.Labels, "app") }, false},
		{"zero and nil", func(p *corev1.PodTemplateSpec) { p.Spec.TerminationGracePeriodSeconds = new(int64) }, false},
	} {
		a, b := template(), template()
		c.change(b)
		if got := api.Alike(a, b); got != c.want || equality.Semantic.DeepEqual(a, b) != c.want {
			t.Errorf("%s: alike %v, want %v, as reflection says", c.name, got, c.want)
		}
	}
}

func BenchmarkAlike(b *testing.B) {
	x, y := template(), template()
	b.Run("stored", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			api.Alike(x, y)
		}
	})
	b.Run("reflection", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			equality.Semantic.DeepEqual(x, y)
		}
	})
}
