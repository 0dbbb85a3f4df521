package apiserver

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
)

// wire is a watch as the client reads it.
type wire struct {
	*testing.T
	lines *bufio.Scanner
}

type wireEvent struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

func openWatch(t *testing.T, o *memory.Objects, query, accept string) wire {
	t.Helper()
	return openWatchAt(t, o, cms, query, accept)
}

func openWatchAt(t *testing.T, o *memory.Objects, path, query, accept string) wire {
	t.Helper()
	srv := httptest.NewServer(server(t, Config{Objects: o}))
	t.Cleanup(srv.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", srv.URL+path+"?watch=true"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		resp.Body.Close()
	})
	if resp.StatusCode != 200 {
		t.Fatalf("got %s", resp.Status)
	}
	return wire{t, bufio.NewScanner(resp.Body)}
}

func (w wire) next() (wireEvent, bool) {
	w.Helper()
	var ev wireEvent
	if !w.lines.Scan() {
		return ev, false
	}
	if err := json.Unmarshal(w.lines.Bytes(), &ev); err != nil {
		w.Fatalf("%v in %q", err, w.lines.Text())
	}
	return ev, true
}

// names reads n events: "TYPE name", and for a bookmark "BOOKMARK " and its
// annotations.
func (w wire) names(n int) []string {
	w.Helper()
	var out []string
	for range n {
		ev, ok := w.next()
		if !ok {
			return append(out, "END")
		}
		var obj metav1.PartialObjectMetadata
		if err := json.Unmarshal(ev.Object, &obj); err != nil {
			w.Fatal(err)
		}
		if obj.Kind == "" || obj.APIVersion == "" || obj.ResourceVersion == "" {
			w.Errorf("an object without kind, version or resourceVersion: %s", ev.Object)
		}
		what := obj.Name
		if ev.Type == "BOOKMARK" {
			what = fmt.Sprint(len(obj.Annotations), obj.Annotations[metav1.InitialEventsAnnotationKey])
		}
		out = append(out, ev.Type+" "+what)
	}
	return out
}

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, Labels: labels}}
}

func create(t *testing.T, o api.Objects, obj api.Object) string {
	t.Helper()
	out, err := o.Create(t.Context(), obj)
	if err != nil {
		t.Fatal(err)
	}
	return out.GetResourceVersion()
}

func TestWatch(t *testing.T) {
	for _, c := range []struct {
		name, query string
		accept      string
		want        []string
	}{
		{"from now, as legacy clients ask", "", "", []string{"ADDED a", "ADDED b", "ADDED c"}},
		{"from 0", "&resourceVersion=0", "", []string{"ADDED a", "ADDED b", "ADDED c"}},
		{"after b", "&resourceVersion=%b", "", []string{"ADDED c"}},
		{"watch list", "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "", []string{"ADDED a", "ADDED b", "BOOKMARK 1true", "ADDED c"}},
		{"watch list from 0", "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0", "", []string{"ADDED a", "ADDED b", "BOOKMARK 1true", "ADDED c"}},
		{"no initial events", "&sendInitialEvents=false&resourceVersionMatch=NotOlderThan", "", []string{"ADDED c"}},
		{"selected", "&labelSelector=x", "", []string{"ADDED b", "ADDED c"}},
		{"one by name", "&fieldSelector=metadata.name%3Dc", "", []string{"ADDED c"}},
		{"metadata alone", "", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", []string{"ADDED a", "ADDED b", "ADDED c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := memory.New()
			create(t, o, configMap("a", nil))
			b := create(t, o, configMap("b", map[string]string{"x": "y"}))
			query := c.query
			if i := len(query) - len("%b"); i > 0 && query[i:] == "%b" {
				query = query[:i] + b
			}
			w := openWatch(t, o, query, c.accept)
			// What comes after must come after the bookmark too: wait for the
			// state first.
			n := len(c.want) - 1
			got := w.names(n)
			create(t, o, configMap("c", map[string]string{"x": "y"}))
			got = append(got, w.names(1)...)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestWatchOneByItsPath(t *testing.T) {
	o := memory.New()
	create(t, o, configMap("a", nil))
	create(t, o, configMap("b", nil))
	w := openWatchAt(t, o, cms+"/b", "", "")
	if d := cmp.Diff([]string{"ADDED b"}, w.names(1)); d != "" {
		t.Error(d)
	}
}

func TestWatchTable(t *testing.T) {
	o := memory.New()
	create(t, o, configMap("a", nil))
	w := openWatch(t, o, "", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
	create(t, o, configMap("b", nil))
	for i, name := range []string{"a", "b"} {
		ev, ok := w.next()
		var table metav1.Table
		if err := json.Unmarshal(ev.Object, &table); err != nil || !ok {
			t.Fatal(err, ok)
		}
		if ev.Type != "ADDED" || table.Kind != "Table" || len(table.Rows) != 1 || table.Rows[0].Cells[0] != name {
			t.Errorf("got %s %s", ev.Type, ev.Object)
		}
		if described := len(table.ColumnDefinitions) > 0; described != (i == 0) {
			t.Errorf("event %d describes the columns: %t", i, described)
		}
	}
}

func TestWatchEnds(t *testing.T) {
	o := memory.New()
	w := openWatch(t, o, "&timeoutSeconds=1", "")
	if ev, ok := w.next(); ok {
		t.Errorf("a watch of nothing shows %s %s", ev.Type, ev.Object)
	}
	if err := w.lines.Err(); err != nil {
		t.Errorf("after timeoutSeconds the watch breaks off: %v", err)
	}
}

func TestWatchTooOldIs410(t *testing.T) {
	o := memory.New(memory.Config{History: 16})
	first := create(t, o, configMap("a", nil))
	for i := range 100 {
		create(t, o, configMap("b"+strconv.Itoa(i), nil))
	}
	h := server(t, Config{Objects: o})
	st := status(t, ask(t, h, "GET", cms+"?watch=true&resourceVersion="+first, ""))
	if st.Code != http.StatusGone || st.Reason != metav1.StatusReasonExpired {
		t.Errorf("got %d %s, want 410 Expired", st.Code, st.Reason)
	}
}

// faultyWatch ends with an error in the middle.
type faultyWatch struct {
	events chan api.Event
	err    error
}

func (w faultyWatch) Events() <-chan api.Event { return w.events }
func (w faultyWatch) Err() error               { return w.err }
func (faultyWatch) Stop()                      {}

type faultyObjects struct {
	api.Objects
	w api.Watch
}

func (f faultyObjects) Watch(context.Context, *api.Resource, api.WatchOptions) (api.Watch, error) {
	return f.w, nil
}

func TestWatchTellsItsFault(t *testing.T) {
	events := make(chan api.Event)
	close(events)
	o := memory.New()
	_, gone := o.Get(t.Context(), api.Pods, "d", "x")
	h := server(t, Config{Objects: faultyObjects{o, faultyWatch{events, gone}}})
	w := ask(t, h, "GET", cms+"?watch=true", "")
	var ev struct {
		Type   string
		Object metav1.Status
	}
	if err := json.Unmarshal(w.Body.Bytes(), &ev); err != nil {
		t.Fatalf("%v in %q", err, w.Body)
	}
	if ev.Type != "ERROR" || ev.Object.Kind != "Status" || ev.Object.Code != 404 {
		t.Errorf("got %s, want the fault as an ERROR event", w.Body)
	}
}

// A server that ends has its watches end without a fault: their clients go on at the
// next one.
func TestWatchOfAServerThatEnds(t *testing.T) {
	events := make(chan api.Event)
	close(events)
	h := server(t, Config{Objects: faultyObjects{memory.New(), faultyWatch{events, apierrors.NewServiceUnavailable("the store is stopped")}}})
	if w := ask(t, h, "GET", cms+"?watch=true", ""); w.Code != http.StatusOK || w.Body.Len() > 0 {
		t.Errorf("got %d %s, want an empty stream", w.Code, w.Body)
	}
}

func TestListPages(t *testing.T) {
	o := memory.New()
	for _, n := range []string{"a", "b", "c"} {
		create(t, o, configMap(n, nil))
	}
	h := server(t, Config{Objects: o})
	var names []string
	token := ""
	for range 3 {
		w := ask(t, h, "GET", cms+"?limit=2&continue="+token, "")
		var l corev1.ConfigMapList
		if err := json.Unmarshal(w.Body.Bytes(), &l); err != nil || l.Kind != "ConfigMapList" || l.ResourceVersion == "" {
			t.Fatalf("%v in %s", err, w.Body)
		}
		for _, it := range l.Items {
			names = append(names, it.Name)
		}
		if token = l.Continue; token == "" {
			break
		}
		if l.RemainingItemCount == nil || *l.RemainingItemCount != 1 {
			t.Errorf("remainingItemCount: got %v, want 1", l.RemainingItemCount)
		}
	}
	if d := cmp.Diff([]string{"a", "b", "c"}, names); d != "" {
		t.Error(d)
	}
	w := ask(t, h, "GET", "/api/v1/secrets", "")
	var empty map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &empty); err != nil || empty["items"] == nil {
		t.Errorf("an empty list must have items: %s", w.Body)
	}
}
