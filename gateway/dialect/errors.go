package dialect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// httpError is an answer that is not a success.
type httpError struct {
	status     int
	text       string
	retryAfter time.Duration
}

func (e *httpError) Error() string { return e.text }

func fault(status int, format string, args ...any) error {
	return &httpError{status: status, text: fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return fault(http.StatusBadRequest, format, args...)
}

// statusOf is this dialect's reading of the closed set of reasons.
func statusOf(err error) *httpError {
	if e, ok := errors.AsType[*httpError](err); ok {
		return e
	}
	e := &httpError{status: http.StatusInternalServerError, text: err.Error()}
	if s := (interface{ HTTPStatus() int })(nil); errors.As(err, &s) {
		if e.status = s.HTTPStatus(); e.status == http.StatusServiceUnavailable {
			e.retryAfter = time.Second
		}
		return e
	}
	switch {
	case apierrors.IsNotFound(err):
		e.status = http.StatusNotFound
	case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err):
		e.status = http.StatusConflict
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		e.status = http.StatusBadRequest
	case apierrors.IsForbidden(err):
		e.status = http.StatusForbidden
	case apierrors.IsTooManyRequests(err):
		e.status, e.retryAfter = http.StatusTooManyRequests, time.Second
	case apierrors.IsServiceUnavailable(err), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), errors.Is(err, context.DeadlineExceeded):
		e.status, e.retryAfter = http.StatusServiceUnavailable, time.Second
	}
	return e
}

func (d *Dialect) writeError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody listens
	}
	e := statusOf(err)
	if e.status >= 500 {
		d.c.Log.Error("request failed", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(openfaas.HeaderInternal, "gateway")
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(e.retryAfter/time.Second)))
	}
	w.WriteHeader(e.status)
	_, _ = io.WriteString(w, e.text+"\n")
}

// wireNames are the fields of a function as this API's clients write them.
var wireNames = strings.NewReplacer(
	"metadata.namespace", "namespace",
	"metadata.name", "service",
	"spec.environment", "envVars",
	"spec.process", "envProcess",
	"spec.name", "service",
	"spec.", "",
)

// invalid is the text for what validation found.
func invalid(name string, errs field.ErrorList) error {
	msgs := make([]string, 0, len(errs))
	for i, e := range errs {
		if i == 10 {
			msgs = append(msgs, fmt.Sprintf("and %d more", len(errs)-i))
			break
		}
		msgs = append(msgs, wireNames.Replace(e.Field)+": "+short(e.ErrorBody()))
	}
	return badRequest("function %s is not valid: %s", short(name), strings.Join(msgs, "; "))
}

// short keeps what a client wrote from filling its terminal.
func short(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return s[:most] + fmt.Sprintf("… (%d bytes)", len(s))
}
