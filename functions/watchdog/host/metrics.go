package host

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// bounds are the usual ones of Prometheus clients, in seconds.
var bounds = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// metrics are written by hand: a client library would double the binary. The
// zero value is ready.
type metrics struct {
	mu     sync.Mutex
	series map[series]*histogram
}

type series struct {
	code   int
	method string
}

type histogram struct {
	buckets [len(bounds)]uint64
	count   uint64
	sum     float64
}

// observe counts one answered request.
func (m *metrics) observe(method string, code int, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := series{code: code, method: known(method)}
	h := m.series[s]
	if h == nil {
		if m.series == nil {
			m.series = map[series]*histogram{}
		}
		h = &histogram{}
		m.series[s] = h
	}
	h.count++
	h.sum += took.Seconds()
	for i, b := range bounds {
		if took.Seconds() <= b {
			h.buckets[i]++
		}
	}
}

// known bounds the number of series: a client may send any word as a method.
func known(method string) string {
	m := strings.ToLower(method)
	if slices.Contains([]string{"get", "post", "put", "patch", "delete", "head", "options"}, m) {
		return m
	}
	return "unknown"
}

// text is the exposition in Prometheus' text format.
func (m *metrics) text(inflight int64) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.SortedFunc(maps.Keys(m.series), func(a, b series) int {
		return cmp.Or(cmp.Compare(a.code, b.code), cmp.Compare(a.method, b.method))
	})
	var b bytes.Buffer
	fmt.Fprintf(&b, "# HELP http_requests_in_flight Requests being served.\n# TYPE http_requests_in_flight gauge\nhttp_requests_in_flight %d\n", inflight)
	b.WriteString("# HELP http_requests_total Requests served.\n# TYPE http_requests_total counter\n")
	for _, s := range all {
		fmt.Fprintf(&b, "http_requests_total{code=\"%d\",method=\"%s\"} %d\n", s.code, s.method, m.series[s].count)
	}
	b.WriteString("# HELP http_request_duration_seconds Time that requests took.\n# TYPE http_request_duration_seconds histogram\n")
	for _, s := range all {
		h, l := m.series[s], fmt.Sprintf("code=\"%d\",method=\"%s\"", s.code, s.method)
		for i, le := range bounds {
			fmt.Fprintf(&b, "http_request_duration_seconds_bucket{%s,le=\"%s\"} %d\n", l, strconv.FormatFloat(le, 'g', -1, 64), h.buckets[i])
		}
		fmt.Fprintf(&b, "http_request_duration_seconds_bucket{%s,le=\"+Inf\"} %d\n", l, h.count)
		fmt.Fprintf(&b, "http_request_duration_seconds_sum{%s} %g\nhttp_request_duration_seconds_count{%s} %d\n", l, h.sum, l, h.count)
	}
	return b.Bytes()
}
