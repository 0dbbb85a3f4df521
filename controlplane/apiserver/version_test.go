package apiserver

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/podsnap/podsnap/api"
)

const (
	hpas1 = "/apis/autoscaling/v1/namespaces/d/horizontalpodautoscalers"
	hpas2 = "/apis/autoscaling/v2/namespaces/d/horizontalpodautoscalers"

	memoryToo = `[{"type":"Resource","resource":{"name":"memory","targetAverageValue":"1Gi"}}]`
)

func answerOf[T any](t *testing.T, body []byte) (out T) {
	t.Helper()
	if err := json.Unmarshal(body, &out); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	return out
}

// An autoscaler is one object in two versions, whichever it is written and read in.
func TestTwoVersions(t *testing.T) {
	h, o := rig(t)
	stored := func() *autoscalingv2.HorizontalPodAutoscaler {
		t.Helper()
		a, err := api.Get[*autoscalingv2.HorizontalPodAutoscaler](t.Context(), o, api.HorizontalPodAutoscalers, "d", "a")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	cpu := func(a *autoscalingv2.HorizontalPodAutoscaler) int32 {
		return *a.Spec.Metrics[len(a.Spec.Metrics)-1].Resource.Target.AverageUtilization
	}
	const one = `{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a`
	const spec = `}, spec: {maxReplicas: 5, targetCPUUtilizationPercentage: 50, scaleTargetRef: {kind: Deployment, name: web}}}`
	yaml := "Content-Type: application/yaml"
	w := ask(t, h, "POST", hpas1, one+`, annotations: {autoscaling.alpha.kubernetes.io/metrics: '`+memoryToo+`'}`+spec, yaml)
	got := answerOf[autoscalingv1.HorizontalPodAutoscaler](t, w.Body.Bytes())
	if w.Code != 201 || got.APIVersion != "autoscaling/v1" || *got.Spec.TargetCPUUtilizationPercentage != 50 || *got.Spec.MinReplicas != 1 || got.UID == "" || got.Annotations["autoscaling.alpha.kubernetes.io/metrics"] != memoryToo {
		t.Fatalf("created: %d %s", w.Code, w.Body)
	}
	if s := stored(); len(s.Spec.Metrics) != 2 || len(s.Annotations) != 0 || cpu(s) != 50 {
		t.Errorf("stored: %+v", s)
	}
	if w = ask(t, h, "GET", hpas2+"/a", ""); len(answerOf[autoscalingv2.HorizontalPodAutoscaler](t, w.Body.Bytes()).Spec.Metrics) != 2 {
		t.Errorf("in version 2: %s", w.Body)
	}
	for _, c := range []struct {
		method, path, body, kind string
		code                     int
		words                    string
	}{
		{"PUT", hpas1 + "/a", one + `}, spec: {maxReplicas: 6, targetCPUUtilizationPercentage: 55, scaleTargetRef: {kind: Deployment, name: web}}}`, yaml, 200, `"maxReplicas":6`},
		{"PUT", hpas1 + "/a", one + `, resourceVersion: "1"` + spec, yaml, 409, `the object has been modified`},
		{"PATCH", hpas1 + "/a", `{"spec":{"targetCPUUtilizationPercentage":60}}`, mergeType, 200, `"targetCPUUtilizationPercentage":60`},
		{"PATCH", hpas1 + "/a", `{"metadata":{"labels":{"x":"y"}}}`, "Content-Type: application/strategic-merge-patch+json", 200, `"x":"y"`},
		{"PATCH", hpas1 + "/a", `[{"op":"replace","path":"/spec/maxReplicas","value":7}]`, "Content-Type: application/json-patch+json", 200, `"maxReplicas":7`},
		{"PATCH", hpas1 + "/a", `{"metadata":{"resourceVersion":"1"},"spec":{"maxReplicas":9}}`, mergeType, 409, `the object has been modified`},
		{"PATCH", hpas1 + "/a?dryRun=All", `{"spec":{"maxReplicas":9}}`, mergeType, 200, `"maxReplicas":9`},
		{"PATCH", hpas1 + "/a", `{"spec":{"maxReplicas":0}}`, mergeType, 422, `spec.maxReplicas`},
		{"PATCH", hpas1 + "/a?fieldValidation=Strict", `{"spec":{"metrics":[]}}`, mergeType, 400, `unknown field \"spec.metrics\"`},
		{"PATCH", hpas1 + "/none", `{}`, mergeType, 404, `not found`},
		{"PATCH", hpas1 + "/a/status", `{"status":{"currentReplicas":2,"desiredReplicas":3,"currentCPUUtilizationPercentage":11}}`, mergeType, 200, `"currentReplicas":2`},
		{"POST", hpas1, strings.Replace(one+spec, "v1", "v2", 1), yaml, 400, `this URL expects a`},
		{"POST", hpas1, strings.Replace(one, "name: a", "name: b", 1) + `, annotations: {autoscaling.alpha.kubernetes.io/metrics: '[{"type":"External"}]'}` + spec, yaml, 422, `Unsupported value: \"External\"`},
		{"GET", hpas1, "", "", 200, `"kind":"HorizontalPodAutoscalerList","apiVersion":"autoscaling/v1"`},
		{"GET", hpas1 + "/a", "", "Accept: application/json;as=Table;g=meta.k8s.io;v=v1", 200, `"Deployment/web"`},
		{"GET", hpas1 + "?includeObject=Object", "", "Accept: application/json;as=Table;g=meta.k8s.io;v=v1", 200, `"targetCPUUtilizationPercentage":60`},
	} {
		w := ask(t, h, c.method, c.path, c.body, c.kind)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.words) {
			t.Errorf("%s %s %s: %d %s, want %d with %s", c.method, c.path, c.body, w.Code, w.Body, c.code, c.words)
		}
	}
	if s := stored(); cpu(s) != 60 || s.Spec.MaxReplicas != 7 || s.Labels["x"] != "y" || s.Status.DesiredReplicas != 3 || *s.Status.CurrentMetrics[0].Resource.Current.AverageUtilization != 11 {
		t.Errorf("stored in the end: %+v", s)
	}
	if w := ask(t, h, "DELETE", hpas1+"/a", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"apiVersion":"autoscaling/v1"`) {
		t.Errorf("deleted: %d %s", w.Code, w.Body)
	}
}

// Who applies in version 1 owns what it says, and no more.
func TestApplyInAnotherVersion(t *testing.T) {
	h, o := rig(t)
	conf := func(more string) string {
		return `{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a, labels: {x: "1"}}, spec: {scaleTargetRef: {kind: Deployment, name: web}` + more + `}}`
	}
	got := applied[autoscalingv1.HorizontalPodAutoscaler](t, h, hpas1+"/a?fieldManager=one", conf(`, maxReplicas: 3, targetCPUUtilizationPercentage: 70`), 201)
	if *got.Spec.TargetCPUUtilizationPercentage != 70 {
		t.Errorf("%+v", got.Spec)
	}
	a, err := api.Get[*autoscalingv2.HorizontalPodAutoscaler](t.Context(), o, api.HorizontalPodAutoscalers, "d", "a")
	if err != nil {
		t.Fatal(err)
	}
	const own = `{"f:metadata":{"f:labels":{"f:x":{}}},"f:spec":{"f:maxReplicas":{},"f:metrics":{},"f:scaleTargetRef":{"f:kind":{},"f:name":{}}}}`
	if got := owners(a)["one Apply"]; got != own {
		t.Errorf("owned: %s, want %s", got, own)
	}
	two := applied[autoscalingv1.HorizontalPodAutoscaler](t, h, hpas1+"/a?fieldManager=two", conf(`, minReplicas: 2`), 200)
	if *two.Spec.MinReplicas != 2 || two.Spec.MaxReplicas != 3 || *two.Spec.TargetCPUUtilizationPercentage != 70 {
		t.Errorf("%+v", two.Spec)
	}
	if w := ask(t, h, "PATCH", hpas1+"/a?fieldManager=two", conf(`, maxReplicas: 4`), applyType); w.Code != 409 || !strings.Contains(w.Body.String(), ".spec.maxReplicas") {
		t.Errorf("a conflict: %d %s", w.Code, w.Body)
	}
	if w := ask(t, h, "PATCH", hpas1+"/a?fieldManager=two", conf(`, metrics: []`), applyType); w.Code != 400 {
		t.Errorf("a field that version 1 has not: %d %s", w.Code, w.Body)
	}
}

// Watches and lists in protobuf, as client-go's typed clients ask for them.
func TestAnotherVersionInProtobuf(t *testing.T) {
	cfg, o := clientConfig(t)
	cfg.GroupVersion, cfg.APIPath = &autoscalingv1.SchemeGroupVersion, "/apis"
	s := runtime.NewScheme()
	if err := autoscalingv1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(s).WithoutConversion()
	cfg.ContentType = runtime.ContentTypeProtobuf
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w, err := client.Get().Namespace("d").Resource("horizontalpodautoscalers").VersionedParams(&metav1.ListOptions{Watch: true}, metav1.ParameterCodec).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	create(t, o, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "a"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "web"}, MaxReplicas: 4,
	}})
	select {
	case ev := <-w.ResultChan():
		a, ok := ev.Object.(*autoscalingv1.HorizontalPodAutoscaler)
		if ev.Type != watch.Added || !ok || *a.Spec.TargetCPUUtilizationPercentage != 80 {
			t.Errorf("event: %+v", ev)
		}
	case <-time.After(time.Minute):
		t.Error("no event")
	}
	var l autoscalingv1.HorizontalPodAutoscalerList
	if err := client.Get().Namespace("d").Resource("horizontalpodautoscalers").Do(t.Context()).Into(&l); err != nil || len(l.Items) != 1 || l.Items[0].Spec.MaxReplicas != 4 {
		t.Errorf("list: %v %+v", err, l)
	}
}

// kubectl finds the kind in its best version, and in the other when it is told. (To
// short names it gives the best version whatever is said.)
func TestKubectlNamesAVersion(t *testing.T) {
	k := newKube(t)
	const manifest = `{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: web}, spec: {maxReplicas: 5, targetCPUUtilizationPercentage: 45, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}`
	k.run(manifest, "", "apply", "-f", "-")
	k.shows("", []string{"get", "hpa", "web", "-o", "json"}, `"apiVersion": "autoscaling/v2"`, `"averageUtilization": 45`)
	k.run(strings.Replace(manifest, ": 45", ": 46", 1), "", "apply", "-f", "-")
	k.shows("", []string{"get", "horizontalpodautoscalers.v1.autoscaling", "web", "-o", "json"}, `"apiVersion": "autoscaling/v1"`, `"targetCPUUtilizationPercentage": 46`)
	k.shows("", []string{"explain", "hpa.spec.targetCPUUtilizationPercentage", "--api-version=autoscaling/v1"}, "VERSION:    v1")
}
