package fast

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	start  *prometheus.HistogramVec
	exits  *prometheus.CounterVec
	takes  *prometheus.CounterVec
	refill prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, size func() (ready, target int), roots func() int) metrics {
	m := metrics{
		start: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "faas_fast_start_duration_seconds", Help: "Time to start a sandbox or a container with the fast runtime.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 14),
		}, []string{"kind"}),
		exits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "faas_fast_exits_total", Help: "Containers of the fast runtime that have ended, by cause.",
		}, []string{"cause"}),
		takes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "faas_sandbox_pool_takes_total", Help: "Sandboxes taken: from the pool, or made inline as it was empty.",
		}, []string{"source"}),
		refill: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "faas_sandbox_pool_refill_duration_seconds", Help: "Time to make one sandbox for the pool.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12),
		}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.start, m.exits, m.takes, m.refill,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "faas_sandbox_pool_size", Help: "Sandboxes parked."},
			func() float64 { n, _ := size(); return float64(n) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "faas_parked_root_filesystems", Help: "Root file systems of images that are parked."},
			func() float64 { return float64(roots()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "faas_sandbox_pool_target", Help: "Sandboxes that should be parked."},
			func() float64 { _, n := size(); return float64(n) }))
	return m
}

func (m metrics) started(kind string, since time.Time) {
	m.start.WithLabelValues(kind).Observe(time.Since(since).Seconds())
}

func (m metrics) took(pooled bool) {
	source := "inline"
	if pooled {
		source = "pool"
	}
	m.takes.WithLabelValues(source).Inc()
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
