package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHTTP(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect to another host was followed")
	}))
	defer other.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if r.Host != "named" || r.Header.Get("X-A") != "b" {
				http.Error(w, "headers are missing", http.StatusBadRequest)
			}
		case "/here":
			http.Redirect(w, r, "/bad", http.StatusFound)
		case "/away":
			http.Redirect(w, r, other.URL, http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		default:
			http.Error(w, "no such thing\nsecond line", http.StatusNotFound)
		}
	}))
	defer srv.Close()
	u, _ := url.Parse(srv.URL)
	port, _ := strconv.Atoi(u.Port())
	target := Target{IP: u.Hostname(), Ports: map[string]int32{"web": int32(port)}}
	for _, c := range []struct{ path, port, want string }{
		{"/ok", "web", ""},
		{"/ok", u.Port(), ""},
		{"/here", "web", "HTTP probe answered 404: no such thing"},
		{"/away", "web", ""},
		{"/slow", "web", "no answer within 1s"},
		{"/ok", "nope", `the container has no port named "nope"`},
	} {
		spec := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: c.path, Port: intstr.FromString(c.port),
			HTTPHeaders: []corev1.HTTPHeader{{Name: "host", Value: "named"}, {Name: "x-a", Value: "b"}},
		}}}
		if got := text((&Prober{}).Check(t.Context(), spec, target)); got != c.want {
			t.Errorf("%s on %s: %q, want %q", c.path, c.port, got, c.want)
		}
	}
}

func TestTCPAndExec(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	spec := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}}}
	target := Target{IP: "127.0.0.1", Exec: func(_ context.Context, c []string) (int, string, error) {
		return len(c), strings.Join(c, " "), nil
	}}
	if err := (&Prober{}).Check(t.Context(), spec, target); err != nil {
		t.Errorf("listening: %v", err)
	}
	l.Close()
	if got := text((&Prober{}).Check(t.Context(), spec, target)); !strings.Contains(got, "refused") {
		t.Errorf("closed: %q", got)
	}
	spec = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"a", "b"}}}}
	if got := text((&Prober{}).Check(t.Context(), spec, target)); got != "command ended with 2: a b" {
		t.Errorf("exec: %q", got)
	}
	if got := text((&Prober{}).Check(t.Context(), &corev1.Probe{}, target)); !strings.Contains(got, "no httpGet") {
		t.Errorf("empty: %q", got)
	}
}

// TestWatch runs probes against a port that opens and closes by a plan.
func TestWatch(t *testing.T) {
	tcp := func(change func(*corev1.Probe)) *corev1.Probe {
		p := &corev1.Probe{PeriodSeconds: 10, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(80)}}}
		if change != nil {
			change(p)
		}
		return p
	}
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for _, c := range []struct {
		name string
		set  Set
		open []time.Duration // open, closed, open, … after so long
		run  time.Duration
		want []string
	}{
		{"ready is seen at once", Set{Readiness: tcp(nil)}, []time.Duration{ms(150)}, time.Minute, []string{"160ms Readiness true"}},
		{"already ready is not told again", Set{Readiness: tcp(nil), Ready: true}, []time.Duration{0}, time.Minute, nil},
		{"initial delay", Set{Readiness: tcp(func(p *corev1.Probe) { p.InitialDelaySeconds = 5 })}, []time.Duration{0}, time.Minute, []string{"5s Readiness true"}},
		{"success threshold", Set{Readiness: tcp(func(p *corev1.Probe) { p.SuccessThreshold = 3 })}, []time.Duration{0}, time.Minute, []string{"10ms Readiness true"}},
		{
			"ready, not, and again",
			Set{Readiness: tcp(func(p *corev1.Probe) { p.FailureThreshold = 2 })},
			[]time.Duration{0, 15 * time.Second, 45 * time.Second},
			time.Minute,
			[]string{"0s Readiness true", "20s Readiness failed", "30s Readiness false", "40s Readiness failed", "50s Readiness true"},
		},
		{
			"liveness ends all",
			Set{Liveness: tcp(nil), Readiness: tcp(func(p *corev1.Probe) { p.PeriodSeconds = 14 }), Ready: true},
			[]time.Duration{0, 5 * time.Second},
			time.Hour,
			[]string{"10s Liveness failed", "14s Readiness failed", "20s Liveness failed", "28s Readiness failed", "30s Liveness false"},
		},
		{
			"a late start",
			Set{Startup: tcp(func(p *corev1.Probe) { p.FailureThreshold = 6 }), Liveness: tcp(nil)},
			[]time.Duration{25 * time.Second},
			time.Minute,
			[]string{"10.4s Startup failed", "20.4s Startup failed", "25.4s Startup true"},
		},
		{
			"no start",
			Set{Startup: tcp(nil), Liveness: tcp(nil), Readiness: tcp(nil)},
			nil, time.Minute,
			[]string{"10.4s Startup failed", "20.4s Startup failed", "30.4s Startup false"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				begin := time.Now()
				p := &Prober{Dial: func(context.Context, string, string) (net.Conn, error) {
					open := false
					for _, at := range c.open {
						if time.Since(begin) >= at {
							open = !open
						}
					}
					if !open {
						return nil, errors.New("refused")
					}
					near, far := net.Pipe()
					far.Close()
					return near, nil
				}}
				ctx, cancel := context.WithTimeout(t.Context(), c.run)
				defer cancel()
				c.set.Since = begin
				news := make(chan string, 100)
				p.Watch(ctx, c.set, Target{IP: "192.0.2.1"}, func(r Result) {
					state := strconv.FormatBool(r.OK)
					if r.Failed {
						state = "failed"
					}
					news <- fmt.Sprintf("%s %s %s", time.Since(begin).Round(10*time.Millisecond), r.Kind, state)
				})
				close(news)
				var got []string
				for n := range news {
					got = append(got, n)
				}
				// Two probes of one moment have no order.
				if diff := cmp.Diff(c.want, got, cmp.Transformer("sort", func(s []string) map[string]int {
					m := map[string]int{}
					for _, x := range s {
						m[x]++
					}
					return m
				})); diff != "" {
					t.Errorf("(-want +got)\n%s\n%v", diff, got)
				}
			})
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
