package async

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// What is driven anew within the window of dropped copies has all its attempts,
// becomes a dead letter once more, and at last succeeds.
func TestRedrive(t *testing.T) {
	s := newServer(t)
	var healed atomic.Bool
	f := newFunctions(func(w http.ResponseWriter, r *http.Request, _ int) {
		if !healed.Load() && strings.Contains(r.URL.Path, "poison") {
			w.WriteHeader(500)
		}
	})
	q, _ := run(t, Config{URL: s.url, Handler: f, Retry: func(types.NamespacedName) Retry {
		return Retry{Attempts: 2, Min: time.Millisecond}
	}})
	poison := call(1, "poison").Function
	list := func(f types.NamespacedName) []DeadLetter {
		t.Helper()
		l, err := q.DeadLetters(t.Context(), f, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	enqueue(t, q, call(1, "poison"))
	enqueue(t, q, call(2, "fine"))
	for round := range 3 {
		f.until(t, "both attempts", func(calls map[string]int) bool { return calls["call-1"] == 2*(round+1) })
		empty(t, q)
		l := list(poison)
		if len(l) != 1 || l[0].Status != 500 || l[0].Attempts != 2 || l[0].Call == nil || l[0].Size != len("body 1") || l[0].Function() != poison || !strings.Contains(l[0].Reason, "500") {
			t.Fatalf("round %d: the dead letters are %+v", round, l)
		}
		healed.Store(round == 2)
		if err := q.Redrive(t.Context(), l[0].Seq); err != nil {
			t.Fatal(err)
		}
		if err := q.Redrive(t.Context(), l[0].Seq); !errors.Is(err, ErrNoDeadLetter) {
			t.Fatalf("the second time: %v", err)
		}
	}
	f.until(t, "the attempt that succeeds", func(calls map[string]int) bool { return calls["call-1"] == 7 })
	empty(t, q)
	if l := list(types.NamespacedName{}); len(l) != 0 {
		t.Errorf("left are %+v", l)
	}
}

func TestDeadLettersPages(t *testing.T) {
	s := newServer(t)
	f := newFunctions(func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(500) })
	q, _ := run(t, Config{URL: s.url, Handler: f, Retry: func(types.NamespacedName) Retry { return Retry{Attempts: 1} }})
	for i := range 5 {
		enqueue(t, q, call(i, []string{"a", "b"}[i%2]))
	}
	m, err := (&Call{ID: "x", Function: types.NamespacedName{Namespace: "openfaas-fn", Name: "c"}}).message()
	if err != nil {
		t.Fatal(err)
	}
	m.Header.Set(headerCall, "{no json")
	if err := q.store(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	empty(t, q)
	seen := map[string]int{}
	for from := uint64(0); ; {
		l, err := q.DeadLetters(t.Context(), types.NamespacedName{}, from, 4)
		if err != nil {
			t.Fatal(err)
		}
		if len(l) == 0 {
			break
		}
		for _, d := range l {
			seen[d.Subject]++
			if d.Call == nil {
				if err := q.Redrive(t.Context(), d.Seq); !errors.Is(err, ErrUnreadable) {
					t.Errorf("what can't be read was driven anew: %v", err)
				}
			}
		}
		from = l[len(l)-1].Seq + 1
	}
	want := map[string]int{deadPrefix + "openfaas-fn.a": 3, deadPrefix + "openfaas-fn.b": 2, deadPrefix + "openfaas-fn.c": 1}
	if d := cmp.Diff(want, seen); d != "" {
		t.Error(d)
	}
	for f, want := range map[types.NamespacedName]int{
		{Namespace: "openfaas-fn"}: 6, {Namespace: "openfaas-fn", Name: "b"}: 2, {Namespace: "openfaas"}: 0, {Namespace: "openfaas-fn", Name: "none"}: 0,
	} {
		l, err := q.DeadLetters(t.Context(), f, 0, 100)
		if err != nil || l == nil || len(l) != want {
			t.Errorf("%s: %d dead letters, %v, want %d", f, len(l), err, want)
		}
	}
}

// A callback that is denied is given up at once and does not hold the queue.
func TestCallbackDenied(t *testing.T) {
	s := newServer(t)
	var got atomic.Int32
	back := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got.Add(1) }))
	defer back.Close()
	reg := prometheus.NewRegistry()
	q, _ := run(t, Config{URL: s.url, Handler: newFunctions(nil), CallbackDeny: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Metrics: reg})
	c := call(1, "later")
	c.Callback = back.URL
	enqueue(t, q, c)
	empty(t, q)
	if n := got.Load(); n != 0 {
		t.Errorf("the callback was called %d times", n)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "faas_async_callback_faults_total" && f.GetMetric()[0].GetCounter().GetValue() == 1 {
			return
		}
	}
	t.Error("one fault is not counted")
}

func TestRefuse(t *testing.T) {
	for address, denied := range map[string]bool{
		"169.254.169.254:80": true, "[::ffff:169.254.169.254]:80": true, "[fe80::1%eth0]:80": true, "0.0.0.0:80": true, "[::]:80": true,
		"224.0.0.1:80": true, "[ff02::1]:80": true, "name:80": true,
		"127.0.0.1:80": false, "[::1]:80": false, "10.1.2.3:80": false, "192.0.2.1:443": false, "[2001:db8::1]:443": false,
	} {
		if err := refuse(deniedByDefault(), address); (err != nil) != denied {
			t.Errorf("%s: got %v, want denied %v", address, err, denied)
		}
	}
}

func TestParseRetry(t *testing.T) {
	for _, c := range []struct {
		in   string // attempts|codes|min|max
		want Retry
	}{
		{"|||", Retry{}},
		{"5|429, 503|2s|1m", Retry{Attempts: 5, Codes: []int{429, 503}, Min: 2 * time.Second, Max: time.Minute}},
		{"||3|30", Retry{Min: 3 * time.Second, Max: 30 * time.Second}},
		{"-1|x,9999|-2s|never", Retry{}},
		{"||1m|1s", Retry{Min: time.Minute, Max: time.Minute}},
	} {
		v := strings.Split(c.in, "|")
		got := ParseRetry(map[string]string{annotationAttempts: v[0], annotationCodes: v[1], annotationMin: v[2], annotationMax: v[3]})
		if d := cmp.Diff(c.want, got); d != "" {
			t.Error(fmt.Sprintf("%q: ", c.in), d)
		}
	}
}
