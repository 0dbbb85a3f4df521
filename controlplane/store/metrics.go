package store

import (
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// metrics are the store's figures. Those of the caches are read when scraped.
type metrics struct {
	s           *Store
	writes      *prometheus.HistogramVec
	lag         prometheus.Histogram
	events      *prometheus.CounterVec
	resyncs     *prometheus.CounterVec
	undecodable prometheus.Counter

	objects, watchers, cut, revision *prometheus.Desc
}

func newMetrics(s *Store) *metrics {
	kind := []string{"resource"}
	return &metrics{
		s: s,
		writes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "faas_store_write_duration_seconds",
			Help:    "Time of a write, until this process's own reads see it.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2.5, 11),
		}, []string{"op", "result"}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "faas_watch_lag_seconds",
			Help:    "Time from a change's arrival in the cache to its delivery to a watch.",
			Buckets: prometheus.ExponentialBuckets(0.000005, 4, 11),
		}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "faas_watch_events_total", Help: "Changes that came from etcd.",
		}, kind),
		resyncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "faas_store_resyncs_total",
			Help: "Times that everything was read anew: diff when the watches went on, reset when they ended.",
		}, []string{"how"}),
		undecodable: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "faas_store_undecodable_total", Help: "Values in etcd that could not be decoded.",
		}),
		objects:  prometheus.NewDesc("faas_store_objects", "Objects in the cache.", kind, nil),
		watchers: prometheus.NewDesc("faas_watchers", "Running watches.", kind, nil),
		cut:      prometheus.NewDesc("faas_watch_cut_total", "Watches cut off because their reader was too slow.", kind, nil),
		revision: prometheus.NewDesc("faas_store_revision", "Revision that the caches have taken in.", nil, nil),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.writes, m.lag, m.events, m.resyncs, m.undecodable, m} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) wrote(op string, start time.Time, err error) {
	result := "ok"
	if err != nil {
		result = "fault"
		if reason := apierrors.ReasonForError(err); reason != "" {
			result = string(reason)
		}
	}
	m.writes.WithLabelValues(op, result).Observe(time.Since(start).Seconds())
}

func (m *metrics) delivered(d time.Duration) { m.lag.Observe(d.Seconds()) }

// label is a kind's name in metrics. A custom one may be called like one of ours.
func label(r *api.Resource) string {
	if r.Definition != nil {
		return r.GR().String()
	}
	return r.Plural
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.objects, m.watchers, m.cut, m.revision} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for r, c := range m.s.kinds() {
		st, name := c.Stats(), label(r)
		ch <- prometheus.MustNewConstMetric(m.objects, prometheus.GaugeValue, float64(st.Objects), name)
		ch <- prometheus.MustNewConstMetric(m.watchers, prometheus.GaugeValue, float64(st.Watchers), name)
		ch <- prometheus.MustNewConstMetric(m.cut, prometheus.CounterValue, float64(st.Cut), name)
	}
	ch <- prometheus.MustNewConstMetric(m.revision, prometheus.GaugeValue, float64(m.s.rev.Load()))
}
