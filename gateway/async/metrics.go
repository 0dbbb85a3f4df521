package async

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	submitted, processed, retried, dead, callbackFaults prometheus.Counter
	inflight                                            *prometheus.GaugeVec
}

func newMetrics(q *Queue) *metrics {
	labels := prometheus.Labels{"queue_name": QueueName}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels})
	}
	m := &metrics{
		submitted:      counter("queue_worker_messages_submitted_total", "Asynchronous calls that were stored."),
		processed:      counter("queue_worker_messages_processed_total", "Attempts to make a stored call."),
		retried:        counter("faas_async_retries_total", "Attempts that are made again."),
		dead:           counter("faas_async_dead_letters_total", "Calls that were given up."),
		callbackFaults: counter("faas_async_callback_faults_total", "Callbacks that could not be delivered."),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "queue_worker_function_invocation_inflight", Help: "Stored calls that are being made.", ConstLabels: labels,
		}, []string{"function_name"}),
	}
	if q.c.Metrics != nil {
		q.c.Metrics.MustRegister(m.submitted, m.processed, m.retried, m.dead, m.callbackFaults, m.inflight, &pending{q})
	}
	return m
}

// pending asks the stream, at each scrape, how many calls of each function it
// holds.
type pending struct{ q *Queue }

var pendingDesc = prometheus.NewDesc("queue_worker_pending_messages", "Stored calls that are not done.",
	[]string{"function_name"}, prometheus.Labels{"queue_name": QueueName})

// Describe implements prometheus.Collector.
func (*pending) Describe(ch chan<- *prometheus.Desc) { ch <- pendingDesc }

// Collect implements prometheus.Collector.
func (p *pending) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) //nolint:forbidigo // the interface has none
	defer cancel()
	counts, err := p.q.Pending(ctx)
	if err != nil {
		return // unknown is not zero
	}
	if len(counts) == 0 {
		counts = map[string]uint64{"": 0}
	}
	for f, n := range counts {
		ch <- prometheus.MustNewConstMetric(pendingDesc, prometheus.GaugeValue, float64(n), f)
	}
}

// Pending counts the stored calls that are not done, by <function>.<namespace>:
// those that wait and those that are being made.
func (q *Queue) Pending(ctx context.Context) (map[string]uint64, error) {
	s, err := q.js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", stream, err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", stream, err)
	}
	out := make(map[string]uint64, len(info.State.Subjects))
	for subject, n := range info.State.Subjects {
		ns, name, _ := strings.Cut(strings.TrimPrefix(subject, prefix), ".")
		out[name+"."+ns] += n
	}
	return out, nil
}
