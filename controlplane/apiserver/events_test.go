package apiserver

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

// TestEventsOfTheirGroup writes and reads Events as new programs do.
func TestEventsOfTheirGroup(t *testing.T) {
	h, o := rig(t)
	const events = "/apis/events.k8s.io/v1/namespaces/d/events"
	body := `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"e"},"regarding":{"kind":"Pod","namespace":"d","name":"p"},"note":"told","reason":"Why","type":"Normal","reportingController":"x","eventTime":"2026-01-01T00:00:00.000000Z"}`
	if w := ask(t, h, "POST", events+"?dryRun=All", body); w.Code != http.StatusCreated || !strings.Contains(w.Body.String(), `"note":"told"`) {
		t.Fatalf("dry: %d %s", w.Code, w.Body)
	}
	if w := ask(t, h, "POST", events+"?fieldValidation=Strict", body); w.Code != http.StatusCreated {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if w := ask(t, h, "POST", events, strings.ReplaceAll(body, `"namespace":"d"`, `"namespace":"other"`)); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("about another namespace: %d %s", w.Code, w.Body)
	}
	e, err := api.Get[*corev1.Event](t.Context(), o, api.Events, "d", "e")
	if err != nil || e.Message != "told" || e.InvolvedObject.Name != "p" {
		t.Errorf("stored is %+v, %v", e, err)
	}
	create(t, o, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "old"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "q"}, Message: "said"})
	for _, c := range []struct{ path, accept, has, hasNot string }{
		{events, "", `"kind":"EventList","apiVersion":"events.k8s.io/v1"`, `"involvedObject"`},
		{events + "?fieldSelector=regarding.name%3Dp", "", `"name":"e"`, `"name":"old"`},
		{"/apis/events.k8s.io/v1/events", "", `"note":"said"`, `"message"`},
		{events, "application/json;as=Table;v=v1;g=meta.k8s.io", `"pod/q"`, `"involvedObject"`},
		{"/api/v1/namespaces/d/events", "", `"message":"told"`, `"note"`},
	} {
		if w := ask(t, h, "GET", c.path, "", "Accept: "+c.accept); w.Code != 200 || !strings.Contains(w.Body.String(), c.has) || strings.Contains(w.Body.String(), c.hasNot) {
			t.Errorf("%s: %d, want %q and not %q in\n%s", c.path, w.Code, c.has, c.hasNot, w.Body)
		}
	}
	if w := ask(t, h, "GET", events+"?fieldSelector=involvedObject.name%3Dp", ""); w.Code != http.StatusBadRequest {
		t.Errorf("by a field of the other form: %d %s", w.Code, w.Body)
	}
	if w := ask(t, h, "PATCH", events+"/e", `{"note":"changed"}`, mergeType); w.Code != 200 || !strings.Contains(w.Body.String(), `"note":"changed"`) {
		t.Errorf("patched: %d %s", w.Code, w.Body)
	}
	applied := `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"e"},"note":"applied"}`
	if w := ask(t, h, "PATCH", events+"/e?fieldManager=m&force=true", applied, applyType); w.Code != 200 || !strings.Contains(w.Body.String(), `"note":"applied"`) || !strings.Contains(w.Body.String(), `"name":"p"`) {
		t.Errorf("applied: %d %s", w.Code, w.Body)
	}
	if w := ask(t, h, "DELETE", events, ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"note":"applied"`) {
		t.Errorf("all are deleted: %d %s", w.Code, w.Body)
	}
}

// TestVacantKinds: what there is nothing of can be read, and discovery says so.
func TestVacantKinds(t *testing.T) {
	h, _ := rig(t)
	for _, r := range api.Vacant {
		path := "/" + rootOf(r) + "/" + r.Plural
		if w := ask(t, h, "GET", path, ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"items":[]`) || !strings.Contains(w.Body.String(), `"kind":"`+r.Kind+`List"`) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		if w := ask(t, h, "GET", path, "", "Accept: application/vnd.kubernetes.protobuf"); w.Code != 200 || !strings.HasPrefix(w.Body.String(), "k8s\x00") {
			t.Errorf("%s in protobuf: %d %q", path, w.Code, w.Body)
		}
		if r.Namespaced {
			path = "/" + rootOf(r) + "/namespaces/d/" + r.Plural
		}
		if w := ask(t, h, "GET", path+"/x", ""); w.Code != http.StatusNotFound || status(t, w).Details.Kind != r.Plural {
			t.Errorf("%s/x: %d %s", path, w.Code, w.Body)
		}
		if w := ask(t, h, "POST", path, "{}"); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET" {
			t.Errorf("%s is created: %d %s", path, w.Code, w.Body)
		}
		if w := ask(t, h, "GET", "/"+rootOf(r), ""); !strings.Contains(w.Body.String(), `"kind":"`+r.Kind+`","verbs":["get","list","watch"]`) {
			t.Errorf("discovery says of %s\n%s", r, w.Body)
		}
	}
}
