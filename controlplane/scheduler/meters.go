package scheduler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meters carry the names of Kubernetes' scheduler, so that its dashboards and
// alerts work on ours.
type meters struct {
	attempts  *prometheus.HistogramVec
	algorithm prometheus.Histogram
	sli       prometheus.Histogram
}

func newMeters(r prometheus.Registerer, pending func() (active, unschedulable int)) meters {
	buckets := prometheus.ExponentialBuckets(0.0001, 2, 17)
	m := meters{
		attempts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "scheduler_scheduling_attempt_duration_seconds", Help: "Time of one attempt to schedule a pod, the bind included, by result.",
			ConstLabels: prometheus.Labels{"profile": Name}, Buckets: buckets,
		}, []string{"result"}),
		algorithm: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_scheduling_algorithm_duration_seconds", Help: "Time of the decision alone.",
			Buckets: prometheus.ExponentialBuckets(0.000002, 3, 13),
		}),
		sli: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_pod_scheduling_sli_duration_seconds", Help: "Time from the first attempt for a pod until it was bound.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 20),
		}),
	}
	if r == nil {
		return m
	}
	r.MustRegister(m.attempts, m.algorithm, m.sli)
	gauge := func(queue string, f func() int) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "scheduler_pending_pods", Help: "Pods without a node, by the queue they are in.",
			ConstLabels: prometheus.Labels{"queue": queue},
		}, func() float64 { return float64(f()) }))
	}
	gauge("active", func() int { a, _ := pending(); return a })
	gauge("unschedulable", func() int { _, u := pending(); return u })
	return m
}

func (m *meters) attempt(result string, start time.Time) {
	m.attempts.WithLabelValues(result).Observe(time.Since(start).Seconds())
}
