package policy

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	sync    prometheus.Histogram
	guard   prometheus.Histogram
	repairs prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	buckets := prometheus.ExponentialBuckets(0.00005, 2, 16) // 50 µs to 1.6 s
	m := &metrics{
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "faas_policy_sync_seconds", Help: "Time from the first notice of a change of policies, namespaces, nodes or pods until it was in the kernel.", Buckets: buckets,
		}),
		guard: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "faas_policy_guard_seconds", Help: "Time that starts of containers waited until what selects their pod was in the kernel.", Buckets: buckets,
		}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "faas_policy_repairs_total", Help: "Times that the kernel's table of policies was not as it had been written.",
		}),
	}
	if r != nil {
		r.MustRegister(m.sync, m.guard, m.repairs)
	}
	return m
}
