package async

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
)

// Retry says when a call is tried again. The zero value is the default.
type Retry struct {
	Attempts int           // in all, the first included; 0 is 10
	Codes    []int         // answers that are tried again; nil is 408, 429, 500, 502, 503, 504
	Min      time.Duration // before the second attempt, doubling; 0 is 1 s
	Max      time.Duration // 0 is 2 min
}

// Annotations of a function that say how its asynchronous calls are tried again.
const (
	annotationAttempts = "com.openfaas.retry.attempts"
	annotationCodes    = "com.openfaas.retry.codes" // separated by commas
	annotationMin      = "com.openfaas.retry.min_wait"
	annotationMax      = "com.openfaas.retry.max_wait"
)

// ParseRetry reads a function's annotations. What is absent is the default, and
// so is what makes no sense: a call is not lost because of a typing error.
func ParseRetry(annotations map[string]string) Retry {
	var r Retry
	if n, err := strconv.Atoi(annotations[annotationAttempts]); err == nil && n > 0 {
		r.Attempts = n
	}
	for s := range strings.SplitSeq(annotations[annotationCodes], ",") {
		if n, err := strconv.Atoi(strings.TrimSpace(s)); err == nil && n >= 100 && n < 600 {
			r.Codes = append(r.Codes, n)
		}
	}
	r.Min, r.Max = wait(annotations[annotationMin]), wait(annotations[annotationMax])
	if r.Max > 0 && r.Max < r.Min {
		r.Max = r.Min
	}
	return r
}

// wait reads a Go duration or whole seconds; 0 is neither.
func wait(s string) time.Duration {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 86400 {
		return time.Duration(n) * time.Second
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 && d <= 24*time.Hour {
		return d
	}
	return 0
}

var defaultCodes = []int{408, 429, 500, 502, 503, 504}

// verdict is what becomes of a call after an attempt.
type verdict struct {
	done  bool          // the function has answered
	after time.Duration // otherwise: try again after this time, or,
	dead  string        // if not empty, give it up for this reason
}

// judge decides by the answer. attempt counts from 0. An answer of a component
// in front of the function is never the function's, so it is tried again
// whatever its status is, unless it says that there is no such function.
func (r Retry) judge(attempt, status int, h http.Header, random float64) verdict {
	if r.Attempts == 0 {
		r.Attempts = 10
	}
	if r.Codes == nil {
		r.Codes = defaultCodes
	}
	internal := h.Get(openfaas.HeaderInternal)
	again := slices.Contains(r.Codes, status) || (internal != "" && status >= 400)
	switch {
	case internal != "" && status == http.StatusNotFound:
		return verdict{dead: "there is no such function any more"}
	case !again:
		return verdict{done: true}
	case attempt+1 >= r.Attempts:
		return verdict{dead: "the last of " + strconv.Itoa(r.Attempts) + " attempts was answered with " + strconv.Itoa(status)}
	}
	return verdict{after: r.wait(attempt, h.Get("Retry-After"), random)}
}

// wait is exponential with jitter over its second half; the function's own
// Retry-After counts if it is longer.
func (r Retry) wait(attempt int, retryAfter string, random float64) time.Duration {
	if r.Min == 0 {
		r.Min = time.Second
	}
	if r.Max == 0 {
		r.Max = 2 * time.Minute
	}
	d := r.Min
	for range attempt {
		if d = min(2*d, r.Max); d == r.Max {
			break
		}
	}
	d = d/2 + time.Duration(random*float64(d/2))
	if s, err := strconv.Atoi(retryAfter); err == nil && s > 0 {
		d = max(d, min(time.Duration(s)*time.Second, r.Max))
	}
	return d
}

// jitter is the randomness of judge.
func jitter() float64 { return rand.Float64() } //nolint:gosec // no secret
