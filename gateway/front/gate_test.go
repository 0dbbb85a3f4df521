package front_test

import (
	"runtime"
	"testing"

	"github.com/podsnap/podsnap/gateway/front"
	"github.com/podsnap/podsnap/gateway/invoke"
	"github.com/podsnap/podsnap/gateway/route"
	"github.com/prometheus/client_golang/prometheus"
)

// TestTooMany: over a limit a connection is told so; a place is free when a
// connection ends, whichever half served it.
func TestTooMany(t *testing.T) {
	for limit, c := range map[string]front.Config{"all": {MaxConns: 2}, "address": {MaxConnsAddress: 2}} {
		reg := prometheus.NewRegistry()
		c.Metrics = reg
		c.Invoker = function(func(_ *invoke.Request, _ route.Plain, a invoke.Asker) bool { return say(a, 200, "") })
		_, addr := start(t, c)
		for range 2 { // in the second round on the places of the first
			a, b := dial(t, addr), dial(t, addr)
			a.send(call)
			b.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if resp, _ := a.answer("GET"); resp.StatusCode != 200 {
				t.Fatalf("%s: %d", limit, resp.StatusCode)
			}
			if resp, _ := b.answer("GET"); resp.StatusCode != 418 {
				t.Fatalf("%s: %d", limit, resp.StatusCode)
			}
			over := dial(t, addr)
			if resp, body := over.answer("GET"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.ContentLength != int64(len(body)) || !resp.Close {
				t.Errorf("%s: %d %v %q", limit, resp.StatusCode, resp.Header, body)
			}
			over.ended()
			a.send("GET /function/f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			b.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			for _, c := range []*client{a, b} {
				c.answer("GET")
				c.ended()
			}
			for value(t, reg, "faas_gateway_connections") > 0 {
				runtime.Gosched() // the client sees the end a moment before
			}
		}
		if n := value(t, reg, "faas_gateway_connections_refused_total"); n != 2 {
			t.Errorf("%s: %v were counted", limit, n)
		}
	}
}

// value is the sum of a metric.
func value(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	fs, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
