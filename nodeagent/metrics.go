package nodeagent

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
)

// metrics are the node's.
type metrics struct {
	start    prometheus.Histogram
	stages   *prometheus.HistogramVec
	thaw     prometheus.Histogram
	asked    *prometheus.CounterVec
	refused  *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer, a *Agent) *metrics {
	buckets := prometheus.ExponentialBuckets(0.001, 2, 16) // 1 ms to 33 s
	m := &metrics{
		start: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_pod_start_duration_seconds", Help: "Time from a pod's acceptance by the node until it was ready.", Buckets: buckets,
		}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "faas_pod_start_stage_seconds", Help: "Time of one stage of a pod's start: image, sandbox, container (each by itself) and ready (since the container's start).", Buckets: buckets,
		}, []string{"stage"}),
		thaw: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "faas_pod_thaw_seconds", Help: "Time until the processes of a frozen pod were let go on.",
			Buckets: prometheus.ExponentialBuckets(0.00005, 2, 14), // 50 µs to 0.4 s
		}),
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_total", Help: "What the container engine was asked for.",
		}, []string{"operation_type"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_errors_total", Help: "What the container engine could not do.",
		}, []string{"operation_type"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_runtime_operations_duration_seconds", Help: "Time that the container engine took.", Buckets: buckets,
		}, []string{"operation_type"}),
	}
	if r != nil {
		r.MustRegister(m.start, m.stages, m.thaw, m.asked, m.refused, m.duration, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kubelet_running_pods", Help: "Pods with a running container on this node.",
		}, a.running), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "faas_pods_frozen", Help: "Pods on this node whose processes are stopped because they are idle.",
		}, a.frozen), usage{a})
	}
	return m
}

// operation is a stage by the name it has in Kubernetes; "" for one that is not
// the engine's.
func operation(stage string) string {
	switch stage {
	case "image":
		return "pull_image"
	case "sandbox":
		return "run_podsandbox"
	case "container":
		return "start_container"
	}
	return ""
}

func (m *metrics) stage(name string, d time.Duration, err error) {
	if err == nil {
		m.stages.WithLabelValues(name).Observe(d.Seconds())
	}
	op := operation(name)
	if op == "" {
		return
	}
	m.asked.WithLabelValues(op).Inc()
	m.duration.WithLabelValues(op).Observe(d.Seconds())
	if err != nil {
		m.refused.WithLabelValues(op).Inc()
	}
}

func (m *metrics) started(d time.Duration) { m.start.Observe(d.Seconds()) }

func (m *metrics) thawed(d time.Duration) { m.thaw.Observe(d.Seconds()) }

func (a *Agent) frozen() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, w := range a.workers {
		if api.IsFrozen(&w.Pod().Status) {
			n++
		}
	}
	return float64(n)
}

func (a *Agent) running() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, w := range a.workers {
		for _, cs := range w.Pod().Status.ContainerStatuses {
			if cs.State.Running != nil {
				n++
				break
			}
		}
	}
	return float64(n)
}

// usage reads the use of resources of functions' pods when it is asked for. The
// pod is a label, so that the counters of a function don't fall when one goes.
type usage struct{ a *Agent }

func usageDescs() (cpu, memory *prometheus.Desc) {
	labels := []string{"function_name", "namespace", "pod"}
	return prometheus.NewDesc("pod_cpu_usage_seconds_total", "CPU time of a function's pod.", labels, nil),
		prometheus.NewDesc("pod_memory_working_set_bytes", "Working set of a function's pod.", labels, nil)
}

// Describe implements prometheus.Collector.
func (u usage) Describe(ch chan<- *prometheus.Desc) {
	cpu, memory := usageDescs()
	ch <- cpu
	ch <- memory
}

// Collect implements prometheus.Collector.
func (u usage) Collect(ch chan<- prometheus.Metric) {
	u.a.mu.Lock()
	pods := make([]*corev1.Pod, 0, len(u.a.workers))
	for _, w := range u.a.workers {
		pods = append(pods, w.Pod())
	}
	u.a.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) //nolint:forbidigo // a collector is given no context
	defer cancel()
	cpu, memory := usageDescs()
	for _, p := range pods {
		fn := p.Labels[api.LabelFunction]
		if fn == "" {
			continue
		}
		var seconds float64
		var bytes uint64
		ps := u.a.use(ctx, p)
		for _, c := range ps.Containers {
			seconds += c.CPUSeconds
			bytes += c.Memory
		}
		if len(ps.Containers) == 0 {
			continue
		}
		ch <- prometheus.MustNewConstMetric(cpu, prometheus.CounterValue, seconds, fn+"."+p.Namespace, p.Namespace, p.Name)
		ch <- prometheus.MustNewConstMetric(memory, prometheus.GaugeValue, float64(bytes), fn+"."+p.Namespace, p.Namespace, p.Name)
	}
}
