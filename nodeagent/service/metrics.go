package service

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	sync    prometheus.Histogram
	repairs prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "faas_service_sync_seconds", Help: "Time from the first notice of a change of Services or endpoints until it was in the kernel.",
			Buckets: prometheus.ExponentialBuckets(0.00005, 2, 16), // 50 µs to 1.6 s
		}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "faas_service_repairs_total", Help: "Times that the kernel's table of Services was not as it had been written.",
		}),
	}
	if r != nil {
		r.MustRegister(m.sync, m.repairs)
	}
	return m
}
