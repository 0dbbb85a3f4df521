package engine

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	start *prometheus.HistogramVec
	pull  prometheus.Histogram
	exits *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) metrics {
	m := metrics{
		start: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "faas_engine_start_duration_seconds", Help: "Time to start a sandbox or a container.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 12),
		}, []string{"kind"}),
		pull: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "faas_engine_pull_duration_seconds", Help: "Time to pull and unpack an image.",
			Buckets: prometheus.ExponentialBuckets(0.02, 3, 10),
		}),
		exits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "faas_engine_exits_total", Help: "Containers that have ended, by cause.",
		}, []string{"cause"}),
	}
	if r != nil {
		r.MustRegister(m.start, m.pull, m.exits)
	}
	return m
}

func (m metrics) started(kind string, since time.Time) {
	m.start.WithLabelValues(kind).Observe(time.Since(since).Seconds())
}

func (m metrics) exited(code int, oom bool) {
	cause := "error"
	switch {
	case oom:
		cause = "oom"
	case code == 0:
		cause = "completed"
	}
	m.exits.WithLabelValues(cause).Inc()
}
