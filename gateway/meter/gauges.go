package meter

import "github.com/prometheus/client_golang/prometheus"

// State is what the gauges of one function show.
type State struct {
	Label       string // `<name>.<namespace>`
	InFlight    int
	Queued      int
	Replicas    int // desired
	Ready       int // observed
	Min         int
	Target      float64 // load per replica that the autoscaler aims at
	ScalingType string
}

// Gauges is a collector that asks for the state of all functions when it is
// scraped, so that the figures are never old.
type Gauges struct {
	states                                        func() []State
	inflight, queued, count, ready, least, target *prometheus.Desc
}

var _ prometheus.Collector = (*Gauges)(nil)

// NewGauges makes the collector; states is called at each scrape.
func NewGauges(states func() []State) *Gauges {
	fn := []string{"function_name"}
	return &Gauges{
		states:   states,
		inflight: prometheus.NewDesc("gateway_function_invocation_inflight", "Invocations being served or waiting.", fn, nil),
		queued:   prometheus.NewDesc("faas_gateway_queued", "Invocations waiting for a slot.", fn, nil),
		count:    prometheus.NewDesc("gateway_service_count", "Replicas wanted.", fn, nil),
		ready:    prometheus.NewDesc("gateway_service_ready_count", "Replicas that are ready.", fn, nil),
		least:    prometheus.NewDesc("gateway_service_min", "Replicas that are kept at least.", fn, nil),
		target:   prometheus.NewDesc("gateway_service_target_load", "Load per replica that scaling aims at.", []string{"function_name", "scaling_type"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (g *Gauges) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.inflight, g.queued, g.count, g.ready, g.least, g.target} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (g *Gauges) Collect(c chan<- prometheus.Metric) {
	for _, s := range g.states() {
		put := func(d *prometheus.Desc, v float64, labels ...string) {
			c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{s.Label}, labels...)...)
		}
		put(g.inflight, float64(s.InFlight))
		put(g.queued, float64(s.Queued))
		put(g.count, float64(s.Replicas))
		put(g.ready, float64(s.Ready))
		put(g.least, float64(s.Min))
		put(g.target, s.Target, s.ScalingType)
	}
}
