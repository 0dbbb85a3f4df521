package functions

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
)

// DefaultTimeout is the longest invocation of a function that names none.
const DefaultTimeout = 60 * time.Second

// Timeout is the longest that an invocation of f may take by its own
// environment (exec_timeout, write_timeout: the longer one counts); 0 when it
// names neither, then the gateway's limit holds. Values that cannot be read
// count as absent: Validate reports them.
func Timeout(f *api.Function) time.Duration {
	var longest time.Duration
	for _, k := range []string{envExecTimeout, envWriteTimeout} {
		if d, err := ParseDuration(f.Spec.Environment[k]); err == nil {
			longest = max(longest, d)
		}
	}
	return longest
}

// Concurrency is how many requests one replica of f serves at once: its label
// or annotation podsnap.dev/concurrency, else max_inflight of its environment;
// 0 is no limit.
func Concurrency(f *api.Function) int {
	for _, s := range []string{
		f.Spec.Annotations[api.AnnotationConcurrency], f.Spec.Labels[api.AnnotationConcurrency], f.Spec.Environment[envMaxInflight],
	} {
		if n, err := parseCount(s); err == nil && s != "" {
			return n
		}
	}
	return 0
}

// Queue is how many requests of f may wait for a replica; 0 is the gateway's
// limit.
func Queue(f *api.Function) int {
	n, err := parseCount(f.Spec.Annotations[api.AnnotationQueue])
	if err != nil {
		return 0
	}
	return n
}

// Wait is the longest that a request of f waits for a replica; 0 is the
// gateway's limit.
func Wait(f *api.Function) time.Duration {
	d, err := ParseDuration(f.Spec.Annotations[api.AnnotationWait])
	if err != nil {
		return 0
	}
	return d
}

// ParseDuration reads a watchdog's duration: a whole number is seconds, all
// else a Go duration; "" is 0. Negative ones are an error.
func ParseDuration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 && n <= math.MaxInt64/int64(time.Second) {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration: write seconds (60) or a Go duration (1m30s)", s)
	}
	return d, nil
}

func parseCount(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a whole number of 0 or more", s)
	}
	return int(n), nil
}

// LimitVariables are what the functions here read of a function's environment.
func LimitVariables() []string { return []string{envExecTimeout, envWriteTimeout, envMaxInflight} }
