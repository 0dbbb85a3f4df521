package fleet

import (
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

type metrics struct {
	decisions *prometheus.CounterVec
	decided   prometheus.Histogram
	evictions prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "faas_autoscale_decisions_total", Help: "Changes of the number of replicas of functions.",
		}, []string{"direction"}),
		evictions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "faas_autoscale_evictions_total", Help: "Idle replicas that were ended because their node was short of memory.",
		}),
		decided: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "faas_autoscale_write_seconds", Help: "From a decision to its number of replicas being stored.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12),
		}),
	}
	if r != nil {
		r.MustRegister(m.decisions, m.decided, m.evictions)
	}
	return m
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
