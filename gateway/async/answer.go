package async

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/internal/pause"
)

// answer keeps what a function answers, up to a limit.
type answer struct {
	status int
	header http.Header
	body   bytes.Buffer
	limit  int64
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 { // 1xx comes before the answer
		a.status = status
	}
}

// Write implements io.Writer: what is over the limit is dropped.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if room := a.limit - int64(a.body.Len()); room > 0 {
		a.body.Write(b[:min(int64(len(b)), room)])
	}
	return len(b), nil
}

// Flush implements http.Flusher: there is nobody to flush to.
func (*answer) Flush() {}

func newReader(b []byte) io.Reader {
	if len(b) == 0 {
		return http.NoBody
	}
	return bytes.NewReader(b)
}

// callbackWaits are the pauses between the tries to deliver a callback.
var callbackWaits = []time.Duration{500 * time.Millisecond, 2 * time.Second}

// call posts an answer to the call's callback URL. A receiver that can't be
// reached does not hold the queue: after a few tries it is given up.
func (q *Queue) call(ctx context.Context, c *Call, a *answer, took time.Duration) {
	for i := 0; ; i++ {
		err := q.post(ctx, c, a, took)
		if err == nil {
			return
		}
		if i == len(callbackWaits) || errors.Is(err, errDenied) || !pause.For(ctx, callbackWaits[i]) {
			q.m.callbackFaults.Inc()
			q.c.Log.Warn("a callback was given up", slog.String("call_id", c.ID), slog.String("url", c.Callback), slog.Any("error", err))
			return
		}
	}
}

func (q *Queue) post(ctx context.Context, c *Call, a *answer, took time.Duration) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Callback, newReader(a.body.Bytes()))
	if err != nil {
		return err
	}
	for k, v := range a.header {
		switch k {
		case "Connection", "Transfer-Encoding", "Content-Length", "Trailer", "Upgrade", "Keep-Alive":
		default:
			req.Header[k] = v
		}
	}
	req.Header.Set(openfaas.HeaderCallID, c.ID)
	req.Header.Set("X-Function-Name", label(c.Function))
	req.Header.Set("X-Function-Status", strconv.Itoa(a.status))
	req.Header.Set(openfaas.HeaderStartTime, strconv.FormatInt(c.Start.UnixNano(), 10))
	req.Header.Set(openfaas.HeaderDuration, fmt.Sprintf("%f", took.Seconds()))
	resp, err := q.c.Callback.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // for the connection's sake
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	return nil
}
