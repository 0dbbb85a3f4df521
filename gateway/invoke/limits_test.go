package invoke_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/gateway/invoke"
)

// A function's own limits count, within the gateway's.
func TestOwnQueue(t *testing.T) {
	r := newRig(t, invoke.Config{MaxQueue: 2})
	waiting := func(n int) {
		r.c.until(t, "requests in the queue", func() bool {
			return len(r.c.reports) > 0 && r.c.reports[len(r.c.reports)-1].Queued == n
		})
	}
	answers := make(chan answer, 2)
	call := func() {
		a, _ := r.do("GET", "", "")
		answers <- a
	}
	r.v.SetFunction(resize, invoke.Spec{MaxQueue: 1})
	go call()
	waiting(1)
	if a := r.must("GET", "", ""); a.status != http.StatusTooManyRequests || !strings.Contains(a.body, "1 requests are waiting") {
		t.Errorf("over the function's limit: %d %q", a.status, a.body)
	}
	r.v.SetFunction(resize, invoke.Spec{MaxQueue: 100})
	go call()
	waiting(2)
	if a := r.must("GET", "", ""); a.status != http.StatusTooManyRequests || !strings.Contains(a.body, "2 requests are waiting") {
		t.Errorf("over the gateway's limit: %d %q", a.status, a.body)
	}
	_, e := r.replica("a", func(http.ResponseWriter, *http.Request) {})
	r.ready(e)
	for range 2 {
		if a := <-answers; a.status != 200 {
			t.Errorf("who was in the queue got %d", a.status)
		}
	}
}

func TestOwnWait(t *testing.T) {
	r := newRig(t, invoke.Config{})
	r.v.SetFunction(resize, invoke.Spec{Wait: 30 * time.Millisecond})
	begin := time.Now()
	if a := r.must("GET", "", ""); a.status != 503 || a.header.Get("Retry-After") != "1" || time.Since(begin) > 10*time.Second {
		t.Errorf("answer %d %v %q after %v", a.status, a.header, a.body, time.Since(begin))
	}
}
