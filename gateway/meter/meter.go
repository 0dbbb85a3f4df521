// Package meter holds the gateway's metrics, under the names that existing
// dashboards of the OpenFaaS API ask for, and a few of our own (faas_…).
package meter

import (
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stages of a cold start, as seen from the gateway.
const (
	StageQueued    = "queued"     // until a replica was there
	StageConnect   = "connect"    // until it took the connection
	StageFirstByte = "first_byte" // until its answer began

	// Of a call that met a frozen replica, in the answer's Server-Timing alone.
	StageThaw = "thaw" // until the replica ran again

	// Parts of queued, when they are known.
	StageCreate  = "create"   // until the control plane had made a replica
	StagePlace   = "place"    // until that had a node
	StageStart   = "start"    // until it took calls
	StageHandOut = "hand_out" // until the gateway knew and gave its place to the call
)

// Meter is the set of metrics. Its methods are safe for concurrent use.
type Meter struct {
	started   *prometheus.CounterVec
	total     *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	cold      prometheus.Histogram
	coldStage *prometheus.HistogramVec
	thaw      prometheus.Histogram
	waiting   prometheus.Histogram
	refused   *prometheus.CounterVec
	retries   prometheus.Counter
	requests  *prometheus.CounterVec
	provided  *prometheus.CounterVec
	providing *prometheus.HistogramVec
	duration  *prometheus.HistogramVec
}

// New makes the metrics and registers them; reg may be nil.
func New(reg prometheus.Registerer) *Meter {
	coldBuckets := prometheus.ExponentialBuckets(0.001, 2, 16)
	m := &Meter{
		started: prometheus.NewCounterVec(prometheus.CounterOpts{ //nolint:promlinter // dashboards know it by this name
			Name: "gateway_function_invocation_started", Help: "Invocations that came in.",
		}, []string{"function_name"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_function_invocation_total", Help: "Invocations that are over, by status code.",
		}, []string{"function_name", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gateway_functions_seconds", Help: "Time of invocations, waiting included.",
		}, []string{"function_name", "code"}),
		cold: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "faas_cold_start_seconds", Help: "Time to the first byte of invocations that found no replica.", Buckets: coldBuckets,
		}),
		coldStage: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "faas_cold_start_stage_seconds", Help: "Parts of faas_cold_start_seconds.", Buckets: coldBuckets,
		}, []string{"stage"}),
		thaw: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "faas_gateway_thaw_seconds", Help: "Time that invocations waited for a frozen replica to be thawed.",
			Buckets: prometheus.ExponentialBuckets(0.00005, 2, 16), // 50 µs to 1.6 s
		}),
		waiting: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "faas_gateway_queue_seconds", Help: "Time that invocations waited for a slot, of those that waited.", Buckets: coldBuckets,
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "faas_gateway_refused_total", Help: "Requests that the gateway answered itself with an error, by reason.",
		}, []string{"reason"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "faas_gateway_connect_retries_total", Help: "Invocations sent to another replica because the first took no connection.",
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "Requests to the gateway's own API.",
		}, []string{"method", "path", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "Time of requests to the gateway's own API.",
		}, []string{"method", "path", "status"}),
		provided: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "provider_http_requests_total", Help: "The same as http_requests_total, as faas-provider names it.",
		}, []string{"code", "method", "path"}),
		providing: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "provider_http_request_duration_seconds", Help: "The same as http_request_duration_seconds, as faas-provider names it.",
		}, []string{"code", "method", "path"}),
	}
	if reg != nil {
		reg.MustRegister(m.started, m.total, m.seconds, m.cold, m.coldStage, m.thaw, m.waiting, m.refused, m.retries, m.requests, m.duration, m.provided, m.providing)
	}
	return m
}

// Function makes the handles of one function; label is `<name>.<namespace>`.
func (m *Meter) Function(label string) *Function {
	f := &Function{m: m, label: label, started: m.started.WithLabelValues(label)}
	f.codes.Store(&[]code{})
	return f
}

// Forget drops the series of a function that is gone.
func (m *Meter) Forget(label string) {
	l := prometheus.Labels{"function_name": label}
	m.started.DeletePartialMatch(l)
	m.total.DeletePartialMatch(l)
	m.seconds.DeletePartialMatch(l)
}

// Cold takes one cold start.
func (m *Meter) Cold(c ColdStart) {
	m.cold.Observe(c.FirstByte.Sub(c.Queued).Seconds())
	for stage, d := range c.Stages() {
		m.coldStage.WithLabelValues(stage).Observe(d.Seconds())
	}
}

// Thawed takes the time that one invocation waited for a frozen replica.
func (m *Meter) Thawed(d time.Duration) { m.thaw.Observe(d.Seconds()) }

// Waited takes the time that one invocation waited for a slot.
func (m *Meter) Waited(d time.Duration) { m.waiting.Observe(d.Seconds()) }

// Refused counts an answer of the gateway's own; reason is one of a few words.
func (m *Meter) Refused(reason string) { m.refused.WithLabelValues(reason).Inc() }

// Retried counts a retry on another replica.
func (m *Meter) Retried() { m.retries.Inc() }

// Request takes a request to the gateway's own API; path is its pattern, never
// what the client sent.
func (m *Meter) Request(method, path string, status int, d time.Duration) {
	s := strconv.Itoa(status)
	m.requests.WithLabelValues(method, path, s).Inc()
	m.duration.WithLabelValues(method, path, s).Observe(d.Seconds())
	path = providerPath(path)
	m.provided.WithLabelValues(s, method, path).Inc()
	m.providing.WithLabelValues(s, method, path).Observe(d.Seconds())
}

// providerPath is a pattern without its variable parts, with faas-provider's own
// name for the function's.
func providerPath(pattern string) string {
	path, rest, _ := strings.Cut(pattern, "/{")
	if rest != "" && path == "/system/function" || path == "/system/functions" {
		return "/system/function"
	}
	return path
}

// Function is the handles of one function. They are looked up once: an
// invocation costs no map of labels.
type Function struct {
	m       *Meter
	label   string
	started prometheus.Counter
	codes   atomic.Pointer[[]code]
	count   atomic.Uint64
}

type code struct {
	status  int
	total   prometheus.Counter
	seconds prometheus.Observer
}

// Label is `<name>.<namespace>`.
func (f *Function) Label() string { return f.label }

// Started counts an invocation that came in.
func (f *Function) Started() { f.started.Inc() }

// Done counts an invocation that is over.
func (f *Function) Done(status int, d time.Duration) {
	f.count.Add(1)
	c := f.code(status)
	c.total.Inc()
	c.seconds.Observe(d.Seconds())
}

// Count is how many invocations are over.
func (f *Function) Count() uint64 { return f.count.Load() }

func (f *Function) code(status int) code {
	for {
		known := f.codes.Load()
		for _, c := range *known {
			if c.status == status {
				return c
			}
		}
		s := strconv.Itoa(status)
		c := code{status: status, total: f.m.total.WithLabelValues(f.label, s), seconds: f.m.seconds.WithLabelValues(f.label, s)}
		next := append((*known)[:len(*known):len(*known)], c)
		if f.codes.CompareAndSwap(known, &next) {
			return c
		}
	}
}
