package apiserver

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/test/bubble"
)

// usageRig has two nodes, one of which does not answer, and pods that use a core
// for each of their containers.
func usageRig(t *testing.T) (get func(path string, into any) int) {
	t.Helper()
	o, agent := memory.New(memory.Config{}), memory.NewAgent()
	for _, n := range []string{"n1", "n2"} {
		if _, err := o.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n, Labels: map[string]string{"name": n}}}); err != nil {
			t.Fatal(err)
		}
	}
	for name, node := range map[string]string{"a": "n1", "b": "n1", "away": "n2"} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, Labels: map[string]string{"app": name}}}
		p.Spec.NodeName, p.Spec.Containers = node, []corev1.Container{{Name: "x", Image: "i"}, {Name: "c", Image: "i"}}
		got, err := api.Create(t.Context(), o, p)
		if err != nil {
			t.Fatal(err)
		}
		next := got.DeepCopy()
		next.Status.Phase = corev1.PodRunning
		if _, err := o.Update(t.Context(), next, api.UpdateOptions{Subresource: "status"}); err != nil {
			t.Fatal(err)
		}
		if err := agent.Start(t.Context(), []*corev1.Pod{got}); err != nil {
			t.Fatal(err)
		}
	}
	s := server(t, Config{Objects: o, Agents: func(_ context.Context, node string) (api.Agent, error) {
		if node != "n1" {
			return nil, apierrors.NewServiceUnavailable("it is away")
		}
		return agent, nil
	}})
	return func(path string, into any) int {
		t.Helper()
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/apis/metrics.k8s.io/v1beta1"+path, nil))
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s: %v in %s", path, err, w.Body)
		}
		return w.Code
	}
}

func TestUsage(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		get := usageRig(t)
		time.Sleep(time.Minute)
		var nodes metricsv1.NodeMetricsList
		if code := get("/nodes", &nodes); code != http.StatusOK || len(nodes.Items) != 1 || nodes.Items[0].Name != "n1" || nodes.Items[0].Window.Duration != time.Second || nodes.Kind != "NodeMetricsList" {
			t.Errorf("%d: %+v", code, nodes)
		}
		var pods metricsv1.PodMetricsList
		get("/pods", &pods)
		if len(pods.Items) != 2 {
			t.Fatalf("%+v", pods)
		}
		p := pods.Items[0]
		if len(p.Containers) != 2 || p.Containers[0].Name != "c" || p.Containers[0].Usage.Cpu().MilliValue() != 1000 || p.Containers[0].Usage.Memory().String() != "1Mi" {
			t.Errorf("%+v", p)
		}
		var some metricsv1.PodMetricsList
		if get("/namespaces/d/pods?labelSelector=app%3Db", &some); len(some.Items) != 1 || some.Items[0].Name != "b" || some.Items[0].Labels["app"] != "b" {
			t.Errorf("%+v", some)
		}
		var none metricsv1.PodMetricsList
		if get("/namespaces/other/pods", &none); none.Items == nil || len(none.Items) != 0 {
			t.Errorf("%+v", none)
		}
		var one metricsv1.PodMetrics
		if code := get("/namespaces/d/pods/a", &one); code != http.StatusOK || one.Kind != "PodMetrics" || one.Name != "a" {
			t.Errorf("%d: %+v", code, one)
		}
		for path, want := range map[string]int{
			"/namespaces/d/pods/away": http.StatusNotFound, "/namespaces/d/pods/x": http.StatusNotFound, "/nodes/x": http.StatusNotFound,
			"/nodes/n2": http.StatusServiceUnavailable, "/nodes?labelSelector=%3D%3D": http.StatusBadRequest,
		} {
			var st metav1.Status
			if code := get(path, &st); code != want || st.Kind != "Status" {
				t.Errorf("%s: %d, want %d: %+v", path, code, want, st)
			}
		}
	})
}
