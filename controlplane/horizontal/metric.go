package horizontal

import (
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

const (
	tolerance = 0.1 // ratios that are nearer to 1 change nothing

	// While a pod starts its processor time says nothing: so long after its start
	// what it has used before it was ready does not count.
	initialization = 5 * time.Minute
	// A pod that has not been ready since so soon after its start never was.
	initialReadiness = 30 * time.Second
)

// asked is a metric, of whichever type.
type asked struct {
	resource  corev1.ResourceName
	container string // "" is all
	target    *autoscalingv2.MetricTarget
}

// metric is how many replicas a metric asks for, its name in messages, and its
// entry in the status.
func (in *Input) metric(m *autoscalingv2.MetricSpec) (int32, string, autoscalingv2.MetricStatus, *fault) {
	st := autoscalingv2.MetricStatus{Type: m.Type}
	var a asked
	name := ""
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		a = asked{m.Resource.Name, "", &m.Resource.Target}
		name = string(a.resource) + " resource"
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		a = asked{m.ContainerResource.Name, m.ContainerResource.Container, &m.ContainerResource.Target}
		name = string(a.resource) + " container resource"
	default:
		return 0, "", st, faultf("InvalidMetricSourceType", "there is no source of metrics of the type %s: use Resource or ContainerResource", m.Type)
	}
	n, value, bad := in.replicas(a)
	if bad != nil {
		return 0, "", st, bad
	}
	if a.container == "" {
		st.Resource = &autoscalingv2.ResourceMetricStatus{Name: a.resource, Current: value}
	} else {
		st.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: a.resource, Container: a.container, Current: value}
	}
	if a.target.Type == autoscalingv2.UtilizationMetricType {
		name += " utilization (percentage of request)"
	}
	return n, name, st, nil
}

// groups are the pods of a target by what is known of them. Values are in
// thousandths of the unit.
type groups struct {
	values           map[types.UID]float64
	ready            int
	unready, missing []types.UID
}

func (in *Input) group(a asked) groups {
	g := groups{values: map[types.UID]float64{}}
	for _, p := range in.Pods {
		switch {
		case p.DeletionTimestamp != nil, p.Status.Phase == corev1.PodFailed, p.Status.Phase == corev1.PodSucceeded:
			continue
		case p.Status.Phase != corev1.PodRunning:
			g.unready = append(g.unready, p.UID)
			continue
		}
		s, ok := in.Use[p.UID]
		value, known := used(s, a)
		switch {
		case !ok || !known:
			g.missing = append(g.missing, p.UID)
		case a.resource == corev1.ResourceCPU && starting(p, s, in.Now):
			g.unready = append(g.unready, p.UID)
		default:
			g.ready++
			g.values[p.UID] = value
		}
	}
	return g
}

func used(s Sample, a asked) (milli float64, ok bool) {
	for name, u := range s.Containers {
		if a.container != "" && name != a.container {
			continue
		}
		ok = true
		if a.resource == corev1.ResourceMemory {
			milli += float64(u.Memory) * 1000
		} else {
			milli += u.Milli
		}
	}
	return milli, ok
}

// starting tells whether what a pod has used is its start's.
func starting(p *corev1.Pod, s Sample, now time.Time) bool {
	var ready *corev1.PodCondition
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			ready = &p.Status.Conditions[i]
		}
	}
	if ready == nil || p.Status.StartTime == nil {
		return true
	}
	begun, since := p.Status.StartTime.Time, ready.LastTransitionTime.Time
	if begun.Add(initialization).After(now) {
		return ready.Status == corev1.ConditionFalse || s.Time.Before(since.Add(s.Window))
	}
	return ready.Status == corev1.ConditionFalse && begun.Add(initialReadiness).After(since)
}

// replicas is the number that brings a metric to its target.
func (in *Input) replicas(a asked) (int32, autoscalingv2.MetricValueStatus, *fault) {
	g := in.group(a)
	c := calculation{in: in, a: a, groups: g}
	if a.target.Type == autoscalingv2.UtilizationMetricType {
		var bad *fault
		if c.requests, bad = in.requests(a); bad != nil {
			return 0, autoscalingv2.MetricValueStatus{}, bad
		}
	}
	if len(g.values) == 0 {
		return 0, autoscalingv2.MetricValueStatus{}, faultf("FailedGetResourceMetric", "failed to get %s: did not receive metrics for targeted pods (pods might be unready)", a.resource)
	}
	ratio := c.ratio()
	value := c.status()
	return c.replicas(ratio), value, nil
}

// calculation is of one metric.
type calculation struct {
	in *Input
	a  asked
	groups
	requests map[types.UID]float64 // nil for an absolute target
}

// ratio is what is used to what should be.
func (c *calculation) ratio() float64 {
	var sum, of float64
	for uid, v := range c.values {
		sum += v
		if c.requests != nil {
			of += c.requests[uid] * float64(*c.a.target.AverageUtilization) / 100
		} else {
			of += float64(c.a.target.AverageValue.MilliValue())
		}
	}
	if of == 0 {
		return 1
	}
	return sum / of
}

// status is the average over the pods whose use is known.
func (c *calculation) status() autoscalingv2.MetricValueStatus {
	var sum, of float64
	for uid, v := range c.values {
		sum += v
		of += c.requests[uid]
	}
	average := sum / float64(len(c.values))
	out := autoscalingv2.MetricValueStatus{}
	if c.a.resource == corev1.ResourceMemory {
		out.AverageValue = resource.NewQuantity(int64(average/1000), resource.BinarySI)
	} else {
		out.AverageValue = resource.NewMilliQuantity(int64(average), resource.DecimalSI)
	}
	if c.requests != nil && of > 0 {
		share := int32(sum * 100 / of)
		out.AverageUtilization = &share
	}
	return out
}

// replicas is the number of them by a ratio. What is not known of a pod counts
// against the direction of the others, so that it slows scaling down and never
// turns it round.
func (c *calculation) replicas(ratio float64) int32 {
	now := c.in.Replicas
	waiting := len(c.unready) > 0 && ratio > 1
	if !waiting && len(c.missing) == 0 {
		if c.near(ratio) {
			return now
		}
		return up(ratio * float64(c.ready))
	}
	for _, uid := range c.missing {
		switch {
		case ratio > 1:
			c.values[uid] = 0
		case ratio < 1 && c.requests != nil:
			c.values[uid] = c.requests[uid] * float64(max(100, *c.a.target.AverageUtilization)) / 100
		case ratio < 1:
			c.values[uid] = float64(c.a.target.AverageValue.MilliValue())
		}
	}
	if waiting {
		for _, uid := range c.unready {
			c.values[uid] = 0
		}
	}
	next := c.ratio()
	if c.near(next) || ratio < 1 && next > 1 || ratio > 1 && next < 1 {
		return now
	}
	n := up(next * float64(len(c.values)))
	if next < 1 && n > now || next > 1 && n < now {
		return now
	}
	return n
}

// up rounds up what is not an integer but for the error of its calculation.
func up(x float64) int32 { return int32(min(math.Ceil(x-1e-9), math.MaxInt32)) }

// near tells whether a ratio is so near to 1 that nothing is to change.
func (c *calculation) near(ratio float64) bool {
	down, upward := tolerance, tolerance
	if b := c.in.Autoscaler.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			upward = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return ratio >= 1-down-1e-9 && ratio <= 1+upward+1e-9
}

// requests is what the pods ask for of a resource. All of them have to.
func (in *Input) requests(a asked) (map[types.UID]float64, *fault) {
	out := map[types.UID]float64{}
	for _, p := range in.Pods {
		found := false
		for _, c := range running(&p.Spec) {
			if a.container != "" && c.Name != a.container {
				continue
			}
			found = true
			q, ok := c.Resources.Requests[a.resource]
			if !ok {
				return nil, faultf("FailedGetResourceMetric", "failed to get %s utilization: missing request for %s in container %s of Pod %s", a.resource, a.resource, c.Name, p.Name)
			}
			out[p.UID] += float64(q.MilliValue())
		}
		if !found {
			return nil, faultf("FailedGetContainerResourceMetric", "failed to get %s utilization: container %s not present in the pod %s", a.resource, a.container, p.Name)
		}
	}
	return out, nil
}

// running are the containers that run as long as the pod.
func running(s *corev1.PodSpec) []*corev1.Container {
	var out []*corev1.Container
	for i := range s.InitContainers {
		if r := s.InitContainers[i].RestartPolicy; r != nil && *r == corev1.ContainerRestartPolicyAlways {
			out = append(out, &s.InitContainers[i])
		}
	}
	for i := range s.Containers {
		out = append(out, &s.Containers[i])
	}
	return out
}
