package invoke_test

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podsnap/podsnap/gateway/invoke"
)

// Each call is told of, with its time, and whatever becomes of it.
func TestCalled(t *testing.T) {
	var calls atomic.Int32
	begin := time.Now()
	r := newRig(t, invoke.Config{Called: func(at time.Time) {
		calls.Add(1)
		if at.Before(begin) || at.After(time.Now()) {
			t.Errorf("a call at %v", at)
		}
	}})
	_, e := r.replica("a", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	r.ready(e)
	for i, path := range []string{"", "/x", ""} {
		resp, err := r.client.Get(r.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if n := calls.Load(); n != int32(i)+1 {
			t.Errorf("told of %d calls, want %d", n, i+1)
		}
	}
}
