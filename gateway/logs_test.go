package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/internal/openfaas"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// agent is a node that has logs and stats, and nothing else.
type agent struct {
	api.Agent
	mu    sync.Mutex
	logs  map[types.UID]string
	asked []api.LogOptions
	stats api.NodeStats
}

func (a *agent) set(pod types.UID, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.logs[pod] = text
}

func (a *agent) Logs(ctx context.Context, pod types.UID, o api.LogOptions) (io.ReadCloser, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, o)
	text, ok := a.logs[pod]
	if !ok {
		return nil, apierrors.NewNotFound(api.Pods.GR(), string(pod))
	}
	if !o.Follow {
		return io.NopCloser(strings.NewReader(text)), nil
	}
	r, w := io.Pipe() // stays open, as the pod does
	go io.WriteString(w, text)
	context.AfterFunc(ctx, func() { w.Close() })
	return r, nil
}

func (a *agent) Stats(context.Context) (api.NodeStats, error) { return a.stats, nil }

func logRig(t *testing.T) (*rig, *agent) {
	a := &agent{logs: map[types.UID]string{}}
	r := newRig(t, func(c *gateway.Config) {
		c.Agents = func(_ context.Context, node string) (api.Agent, error) {
			if node != "n1" {
				return nil, apierrors.NewNotFound(api.Nodes.GR(), node)
			}
			return a, nil
		}
	})
	if err := r.client.Create(t.Context(), openfaas.FunctionDeployment{Service: "hi", Image: "x:1"}); err != nil {
		t.Fatal(err)
	}
	return r, a
}

func stamp(second int, text string) string {
	return time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC).Format(time.RFC3339Nano) + " " + text + "\n"
}

func texts(t *testing.T, r *rig, q openfaas.LogQuery) []string {
	t.Helper()
	var out []string
	for l, err := range r.client.Logs(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		if l.Name != "hi" || l.Namespace != "openfaas-fn" || l.Timestamp.IsZero() {
			t.Errorf("line %+v", l)
		}
		out = append(out, l.Instance+": "+l.Text)
	}
	return out
}

func TestLogs(t *testing.T) {
	r, a := logRig(t)
	a.set(r.pod("hi-1", "hi", "n1").UID, stamp(1, "one")+stamp(3, "three <&>")+stamp(5, "five"))
	a.set(r.pod("hi-2", "hi", "n1").UID, stamp(2, "two")+stamp(4, ""))
	r.pod("hi-3", "hi", "")   // no node yet
	r.pod("hi-4", "hi", "n1") // not started yet
	a.set(r.pod("ho-1", "ho", "n1").UID, stamp(1, "another function"))
	all := []string{"hi-1: one", "hi-2: two", "hi-1: three <&>", "hi-2: ", "hi-1: five"}
	for _, tt := range []struct {
		q    openfaas.LogQuery
		want []string
	}{
		{openfaas.LogQuery{Name: "hi"}, all},
		{openfaas.LogQuery{Name: "hi", Tail: 2}, all[3:]},
		{openfaas.LogQuery{Name: "hi", Tail: 100}, all},
		{openfaas.LogQuery{Name: "hi", Instance: "hi-2"}, []string{"hi-2: two", "hi-2: "}},
		{openfaas.LogQuery{Name: "hi", Instance: "hi-9"}, nil},
	} {
		if d := cmp.Diff(tt.want, texts(t, r, tt.q)); d != "" {
			t.Errorf("%+v: (-want +got)\n%s", tt.q, d)
		}
	}
	for _, tt := range []struct {
		query string
		want  api.LogOptions
	}{
		{"tail=-1&follow=0", api.LogOptions{Tail: -1}},
		{"tail=3&since=2026-01-02T03:04:05Z&follow=false", api.LogOptions{Tail: 3, Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}},
	} {
		a.asked = nil
		status, _, h := r.call("GET", "/system/logs?name=hi&instance=hi-1&"+tt.query, "")
		if status != 200 || h.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("%s: %d %v", tt.query, status, h)
		}
		tt.want.Timestamps = true
		if d := cmp.Diff([]api.LogOptions{tt.want}, a.asked); d != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.query, d)
		}
	}
	a.asked = nil
	r.call("GET", "/system/logs?name=hi&instance=hi-1", "")
	if d := time.Since(a.asked[0].Since); d < 5*time.Minute || d > 6*time.Minute {
		t.Errorf("without since and tail the window is %s", d)
	}
	for query, want := range map[string]int{
		"": 422, "name=hi&tail=x": 422, "name=hi&since=yesterday": 422, "name=hi&follow=maybe": 422,
		"name=nope": 404, "name=hi&namespace=..": 400,
	} {
		if status, body, _ := r.call("GET", "/system/logs?"+query, ""); status != want {
			t.Errorf("%q: %d %q, want %d", query, status, body, want)
		}
	}
}

// TestFollowLogs: lines of a replica that comes later are there too.
func TestFollowLogs(t *testing.T) {
	r, a := logRig(t)
	a.set(r.pod("hi-1", "hi", "n1").UID, stamp(1, "one"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	next, stop := pull(r.client.Logs(ctx, openfaas.LogQuery{Name: "hi", Tail: 10, Follow: true}))
	defer stop()
	if l := next(t); l.Text != "one" {
		t.Fatalf("got %+v", l)
	}
	late := r.pod("hi-2", "hi", "")
	a.set(late.UID, stamp(2, "two"))
	late = late.DeepCopy()
	late.Spec.NodeName = "n1"
	late.Status.Phase = corev1.PodRunning
	if _, err := r.objects.Update(ctx, late, api.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if l := next(t); l.Text != "two" || l.Instance != "hi-2" {
		t.Fatalf("got %+v", l)
	}
	cancel()
}

// A gateway that ends does not wait for those who follow logs.
func TestFollowersAreTold(t *testing.T) {
	r, a := logRig(t)
	a.set(r.pod("hi-1", "hi", "n1").UID, stamp(1, "one"))
	lines, ended := make(chan string, 8), make(chan error, 1)
	go func() {
		var fault error
		for l, err := range r.client.Logs(t.Context(), openfaas.LogQuery{Name: "hi", Tail: 10, Follow: true}) {
			if fault = err; err == nil {
				lines <- l.Text
			}
		}
		ended <- fault
	}()
	if l := <-lines; l != "one" {
		t.Fatal(l)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.g.Front().Shutdown(ctx); err != nil {
		t.Errorf("it waits: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the follower is told by an error: %v", err)
	}
}

func pull(seq func(func(openfaas.LogLine, error) bool)) (next func(*testing.T) openfaas.LogLine, stop func()) {
	lines, quit, done := make(chan openfaas.LogLine), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for l, err := range seq {
			if err != nil {
				return
			}
			select {
			case lines <- l:
			case <-quit:
				return
			}
		}
	}()
	next = func(t *testing.T) openfaas.LogLine {
		t.Helper()
		select {
		case l := <-lines:
			return l
		case <-done:
			t.Fatal("the stream ended")
		case <-time.After(time.Minute):
			t.Fatal("no line came")
		}
		return openfaas.LogLine{}
	}
	return next, func() { close(quit); <-done }
}

func TestUsage(t *testing.T) {
	r, a := logRig(t)
	p := r.pod("hi-1", "hi", "n1")
	set := func(at, cpu float64) {
		a.stats = api.NodeStats{Time: time.Unix(int64(at), 0), Pods: []api.PodStats{
			{UID: p.UID, Containers: []api.ContainerStats{{CPUSeconds: cpu, Memory: 1000}, {Memory: 24}}},
			{UID: "other", Containers: []api.ContainerStats{{CPUSeconds: 9, Memory: 9}}},
		}}
	}
	for i, want := range []string{`{"totalMemoryBytes":1024}`, `{"cpu":250,"totalMemoryBytes":1024}`} {
		set(float64(i*2), float64(i)*0.5)
		if _, body, _ := r.call("GET", "/system/function/hi?usage=1", ""); !strings.Contains(body, `"usage":`+want) {
			t.Errorf("sample %d: %s, want usage %s", i, body, want)
		}
	}
	_, err := api.Mutate(t.Context(), r.objects, api.Pods, p.Namespace, p.Name, api.UpdateOptions{Subresource: "status"}, func(p *corev1.Pod) (bool, error) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: api.ConditionFrozen, Status: corev1.ConditionTrue})
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, body, _ := r.call("GET", "/system/function/hi?usage=1", ""); !strings.Contains(body, `"frozenReplicas":1`) {
		t.Errorf("a frozen replica is not counted: %s", body)
	}
	if _, body, _ := r.call("GET", "/system/function/hi", ""); strings.Contains(body, "usage") {
		t.Errorf("usage unasked: %s", body)
	}
}

// TestCrowdFromZero: the demonstration, in process.
func TestCrowdFromZero(t *testing.T) {
	r := newRig(t, nil)
	if err := r.client.Create(t.Context(), openfaas.FunctionDeployment{Service: "hi", Image: "x:1"}); err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{MaxIdleConnsPerHost: 200}
	defer tr.CloseIdleConnections()
	c := &openfaas.Client{URL: r.url, HTTP: &http.Client{Transport: tr}}
	errs := make(chan error, 200)
	for range cap(errs) {
		go func() {
			resp, err := c.Invoke(t.Context(), openfaas.Invocation{Name: "hi", Body: strings.NewReader("x")})
			if err == nil {
				defer resp.Body.Close()
				if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(b) != "POST / x" {
					err = fmt.Errorf("%d %q", resp.StatusCode, b)
				}
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
