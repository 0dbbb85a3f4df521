package remote

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
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

// A reader who does not read is cut off; a stream on which nothing happens goes
// on.
func TestDeadlineIsForWriting(t *testing.T) {
	c := &clock{ResponseRecorder: httptest.NewRecorder()}
	if !push(c, http.NewResponseController(c), []byte("line\n")) {
		t.Fatal("nobody reads")
	}
	if c.written.IsZero() {
		t.Error("the line was written without a deadline")
	}
	if !c.now.IsZero() {
		t.Errorf("with the line written there is still a deadline, %s", c.now)
	}
}
