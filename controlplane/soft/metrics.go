package soft

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	stored, skipped, conflicts, foreign prometheus.Counter
}

func newMetrics(r prometheus.Registerer, behind func() int) *metrics {
	writes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "faas_soft_writes_total", Help: "What became of changes that were taken into memory first: stored, skipped because they came and went, or dropped for somebody else's.",
	}, []string{"result"})
	m := &metrics{
		stored: writes.WithLabelValues("stored"), skipped: writes.WithLabelValues("skipped"), conflicts: writes.WithLabelValues("dropped"),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "faas_soft_foreign_writes_total", Help: "Changes of soft kinds that came from the durable store.",
		}),
	}
	if r != nil {
		r.MustRegister(writes, m.foreign, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "faas_soft_behind_objects", Help: "Objects whose newest state is not stored yet.",
		}, func() float64 { return float64(behind()) }))
	}
	return m
}
