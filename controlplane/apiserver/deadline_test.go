package apiserver

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
)

// clock is a writer that keeps its deadline, as an HTTP/2 stream does: when it
// passes, the stream ends.
type clock struct {
	*httptest.ResponseRecorder
	written, now time.Time
}

func (c *clock) SetWriteDeadline(t time.Time) error { c.now = t; return nil }
func (c *clock) Write(b []byte) (int, error) {
	c.written = c.now
	return c.ResponseRecorder.Write(b)
}

func (c *clock) check(t *testing.T, what string) {
	t.Helper()
	if c.written.IsZero() {
		t.Errorf("%s: it was written without a deadline", what)
	}
	if !c.now.IsZero() {
		t.Errorf("%s: with everything written there is still a deadline, %s", what, c.now)
	}
}

// A reader who does not read is cut off; a stream on which nothing happens goes
// on.
func TestDeadlineIsForWriting(t *testing.T) {
	c := &clock{ResponseRecorder: httptest.NewRecorder()}
	if err := copyFlushed(c, strings.NewReader("a line of a log\n")); err != nil {
		t.Fatal(err)
	}
	c.check(t, "logs")

	c = &clock{ResponseRecorder: httptest.NewRecorder()}
	events := make(chan api.Event, 1)
	events <- api.Event{Type: api.Added, Object: &corev1.Pod{}}
	close(events)
	w := &eventWriter{c: &call{w: c, resource: api.Pods}, conn: http.NewResponseController(c), settled: true}
	if err := w.run(events); err != nil {
		t.Fatal(err)
	}
	c.check(t, "watch")
}
