package rules_test

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

func TestTemplates(t *testing.T) {
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{HostPID: true}}
	rc := &corev1.ReplicationController{}
	if _, ok := rules.TemplateOf(rc); ok {
		t.Error("a controller without a template has one")
	}
	rc.Spec.Template = &template
	job := batchv1.JobSpec{Template: template}
	for _, o := range []api.Object{
		&corev1.Pod{Spec: template.Spec}, rc, &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Template: template}},
		&appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: template}}, &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Template: template}},
		&appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: template}}, &batchv1.Job{Spec: job},
		&batchv1.CronJob{Spec: batchv1.CronJobSpec{JobTemplate: batchv1.JobTemplateSpec{Spec: job}}},
	} {
		got, ok := rules.TemplateOf(o)
		if !ok || !got.Spec.HostPID {
			t.Errorf("%T: %v", o, got)
			continue
		}
		doc, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		var at map[string]any
		if err := json.Unmarshal(doc, &at); err != nil {
			t.Fatal(err)
		}
		if on, _, err := unstructured.NestedBool(at, append(strings.Split(got.Path, "."), "hostPID")...); err != nil || !on {
			t.Errorf("%T: %s is not there: %v", o, got.Path, err)
		}
	}
	if _, ok := rules.TemplateOf(&corev1.Secret{}); ok {
		t.Error("a Secret makes pods")
	}
}
