package horizontal

import (
	"fmt"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

var begin = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// scaled is an input with pods that ask for 100m of cpu and 100Mi each.
type scaled struct{ Input }

func cpu(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

func average(name corev1.ResourceName, value string) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: name, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: new(resource.MustParse(value))},
	}}
}

func inContainer(name string, percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
		Name: corev1.ResourceCPU, Container: name, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

func newScaled(replicas int32, metrics ...autoscalingv2.MetricSpec) *scaled {
	a := &autoscalingv2.HorizontalPodAutoscaler{}
	a.Spec.MinReplicas, a.Spec.MaxReplicas, a.Spec.Metrics = new(int32(1)), 10, metrics
	return &scaled{Input{Autoscaler: a, Replicas: replicas, Use: map[types.UID]Sample{}, Now: begin}}
}

// pod adds one that uses so much cpu (milli); negative is not known.
func (s *scaled) pod(milli float64, with ...func(*corev1.Pod)) *scaled {
	n := len(s.Pods)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", n), UID: types.UID(fmt.Sprint("p", n))}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("100Mi"),
	}}}}
	p.Status.Phase = corev1.PodRunning
	old := metav1.NewTime(begin.Add(-time.Hour))
	p.Status.StartTime = &old
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: old}}
	for _, f := range with {
		f(p)
	}
	s.Pods = append(s.Pods, p)
	if milli >= 0 {
		s.Use[p.UID] = Sample{Time: begin, Window: 15 * time.Second, Containers: map[string]Use{"c": {Milli: milli, Memory: 50 << 20}}}
	}
	return s
}

func (s *scaled) pods(n int, milli float64, with ...func(*corev1.Pod)) *scaled {
	for range n {
		s.pod(milli, with...)
	}
	return s
}

func pending(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
func ending(p *corev1.Pod)  { p.DeletionTimestamp = &metav1.Time{Time: begin} }
func failed(p *corev1.Pod)  { p.Status.Phase = corev1.PodFailed }
func unasked(p *corev1.Pod) { p.Spec.Containers[0].Resources = corev1.ResourceRequirements{} }

// young has been ready since so long, and started a minute before.
func young(ready time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.StartTime = &metav1.Time{Time: begin.Add(-ready - time.Minute)}
		p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(begin.Add(-ready))
	}
}

func neverReady(p *corev1.Pod) {
	p.Status.Conditions[0].Status = corev1.ConditionFalse
	p.Status.Conditions[0].LastTransitionTime = *p.Status.StartTime
}

func (d *Decision) condition(t autoscalingv2.HorizontalPodAutoscalerConditionType) string {
	for _, c := range d.Status.Conditions {
		if c.Type == t {
			return string(c.Status) + " " + c.Reason
		}
	}
	return ""
}

func TestMetrics(t *testing.T) {
	for name, c := range map[string]struct {
		in   *scaled
		want int32 // of replicas; negative is no decision
	}{
		"twice what it should be":             {newScaled(2, cpu(50)).pods(2, 100), 4},
		"rounded up":                          {newScaled(2, cpu(50)).pods(2, 60), 3},
		"near enough above":                   {newScaled(2, cpu(50)).pods(2, 55), 2},
		"near enough below":                   {newScaled(2, cpu(50)).pods(2, 45), 2},
		"half of it":                          {newScaled(4, cpu(50)).pods(4, 25), 2},
		"a value":                             {newScaled(2, average(corev1.ResourceCPU, "50m")).pods(2, 100), 4},
		"memory":                              {newScaled(2, average(corev1.ResourceMemory, "10Mi")).pods(2, 0), 10},
		"memory of pods that start":           {newScaled(2, average(corev1.ResourceMemory, "25Mi")).pods(2, 0, neverReady), 4},
		"the highest of two":                  {newScaled(2, cpu(50), average(corev1.ResourceMemory, "50Mi")).pods(2, 150), 6},
		"one that cannot be read, up":         {newScaled(2, inContainer("x", 50), cpu(50)).pods(2, 100), 4},
		"one that cannot be read, down":       {newScaled(2, inContainer("x", 50), cpu(50)).pods(2, 10), -1},
		"one container":                       {newScaled(2, inContainer("c", 50)).pods(2, 100), 4},
		"no requests":                         {newScaled(2, cpu(50)).pods(2, 100, unasked), -1},
		"no requests, a value":                {newScaled(2, average(corev1.ResourceCPU, "50m")).pods(2, 100, unasked), 4},
		"nothing is known":                    {newScaled(2, cpu(50)).pods(2, -1), -1},
		"a pending one, up":                   {newScaled(3, cpu(50)).pods(2, 100).pod(-1, pending), 4},
		"pending ones that would be enough":   {newScaled(4, cpu(50)).pods(2, 100).pods(2, -1, pending), 4},
		"a pending one, down":                 {newScaled(3, cpu(50)).pods(2, 20).pod(-1, pending), 1},
		"a missing one, up":                   {newScaled(3, cpu(50)).pods(2, 100).pod(-1), 4},
		"a missing one, down":                 {newScaled(3, cpu(50)).pods(2, 5).pod(-1), 3}, // all of its request
		"missing ones, a value, down":         {newScaled(4, average(corev1.ResourceCPU, "50m")).pods(3, 5).pod(-1), 2},
		"a missing one does not turn it":      {newScaled(3, cpu(50)).pods(2, 40).pod(-1), 3},
		"ending and failed ones do not count": {newScaled(2, cpu(50)).pods(2, 100).pod(900, ending).pod(900, failed), 4},
		"one that starts, up":                 {newScaled(3, cpu(50)).pods(2, 100).pod(900, young(time.Second)), 4},
		"one that is through with its start":  {newScaled(3, cpu(50)).pods(2, 100).pod(100, young(time.Minute)), 6},
		"one that was never ready":            {newScaled(3, cpu(50)).pods(2, 100).pod(900, neverReady), 4},
		"the bound":                           {newScaled(6, cpu(10)).pods(6, 100), 10},
	} {
		t.Run(name, func(t *testing.T) {
			h := &History{proposals: []note{{begin.Add(-time.Hour), c.in.Replicas}}}
			c.in.Autoscaler.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{
				Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 100, PeriodSeconds: 15}},
			}}
			d := Decide(c.in.Input, h)
			if c.want < 0 {
				if d.Fault == nil || d.Rescale || d.condition(autoscalingv2.ScalingActive)[:5] != "False" {
					t.Errorf("%+v", d)
				}
				return
			}
			if d.Replicas != c.want || d.Rescale != (c.want != c.in.Replicas) || d.Fault != nil {
				t.Errorf("%d replicas, want %d: %+v", d.Replicas, c.want, d)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		replicas, want int32
		reason         string
	}{
		{20, 10, "above Spec.MaxReplicas"}, {1, 3, "below Spec.MinReplicas"}, {0, 0, ""},
	} {
		in := newScaled(c.replicas, cpu(50))
		in.Autoscaler.Spec.MinReplicas = new(int32(3))
		d := Decide(in.Input, &History{})
		if d.Replicas != c.want || !strings.Contains(d.Reason, c.reason) {
			t.Errorf("%d: %+v", c.replicas, d)
		}
		if c.replicas == 0 && d.condition(autoscalingv2.ScalingActive) != "False ScalingDisabled" {
			t.Errorf("of none: %+v", d)
		}
	}
}

// play runs an autoscaler every 15 s; the pods that are there share a load.
func play(b *autoscalingv2.HorizontalPodAutoscalerBehavior, replicas int32, load func(time.Duration) float64, rounds int) (path []int32, last Decision) {
	h := &History{}
	for i := range rounds {
		at := time.Duration(i) * 15 * time.Second
		in := newScaled(replicas, cpu(50)).pods(int(replicas), load(at)/float64(replicas))
		in.Autoscaler.Spec.MaxReplicas, in.Autoscaler.Spec.Behavior, in.Now = 100, b, begin.Add(at)
		last = Decide(in.Input, h)
		if last.Rescale {
			h.Changed(replicas, last.Replicas, in.Now)
		}
		replicas = last.Replicas
		path = append(path, replicas)
	}
	return path, last
}

func always(milli float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return milli }
}

func TestBehaviour(t *testing.T) {
	policies := func(sel autoscalingv2.ScalingPolicySelect, ps ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
		return &autoscalingv2.HPAScalingRules{SelectPolicy: &sel, Policies: ps, StabilizationWindowSeconds: new(int32(0))}
	}
	pods := func(n, period int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: n, PeriodSeconds: period}
	}
	percent := func(n, period int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: n, PeriodSeconds: period}
	}
	for name, c := range map[string]struct {
		b        *autoscalingv2.HorizontalPodAutoscalerBehavior
		replicas int32
		load     float64
		rounds   int
		want     string
		reason   string // of ScalingLimited
	}{
		"grows by four or doubles":   {nil, 1, 5000, 6, "[5 10 20 40 80 100]", "False DesiredWithinRange"},
		"shrinks after five minutes": {nil, 8, 50, 22, "[8 8 8 8 8 8 8 8 8 8 8 8 8 8 8 8 8 8 8 8 1 1]", "False DesiredWithinRange"},
		"two pods a minute":          {&autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: policies("Max", pods(2, 60))}, 1, 500, 10, "[3 3 3 3 5 5 5 5 7 7]", "True ScaleUpLimit"},
		"the smaller change":         {&autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: policies("Min", pods(2, 15), percent(100, 15))}, 1, 500, 4, "[2 4 6 8]", "True ScaleUpLimit"},
		"a tenth a minute":           {&autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: policies("Max", percent(10, 60))}, 40, 50, 10, "[36 36 36 36 32 32 32 32 28 28]", "True ScaleDownLimit"},
		"the larger change down":     {&autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: policies("Max", pods(1, 15), percent(50, 15))}, 16, 50, 5, "[8 4 2 1 1]", "False DesiredWithinRange"},
		"the smaller change down":    {&autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: policies("Min", pods(1, 15), percent(50, 15))}, 6, 50, 3, "[5 4 3]", "True ScaleDownLimit"},
		"never down":                 {&autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: policies("Disabled")}, 6, 50, 3, "[6 6 6]", "True ScaleDownLimit"},
	} {
		t.Run(name, func(t *testing.T) {
			path, last := play(c.b, c.replicas, always(c.load), c.rounds)
			if got := fmt.Sprint(path); got != c.want || last.condition(autoscalingv2.ScalingLimited) != c.reason {
				t.Errorf("%s, %s\nwant %s, %s", got, last.condition(autoscalingv2.ScalingLimited), c.want, c.reason)
			}
		})
	}
}

// A short peak does not make an autoscaler grow that is to wait for a minute, and
// a short lull does not make one shrink.
func TestStabilization(t *testing.T) {
	peak := func(d time.Duration) float64 {
		if d == 30*time.Second {
			return 1000
		}
		return 100
	}
	up := &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(60))}}
	if path, _ := play(up, 2, peak, 10); fmt.Sprint(path) != "[2 2 2 2 2 2 2 2 2 2]" {
		t.Errorf("a peak: %v", path)
	}
	lull := func(d time.Duration) float64 {
		if d == 10*time.Minute {
			return 100
		}
		return 400
	}
	if path, _ := play(nil, 8, lull, 80); path[79] != 8 || path[41] != 8 {
		t.Errorf("a lull: %v", path)
	}
}

func TestTolerance(t *testing.T) {
	b := &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{Tolerance: new(resource.MustParse("0.02"))}}
	if path, _ := play(b, 10, always(525), 1); path[0] != 11 {
		t.Errorf("a twentieth above with a tolerance of a fiftieth: %v", path)
	}
	if path, _ := play(nil, 10, always(525), 1); path[0] != 10 {
		t.Errorf("a twentieth above: %v", path)
	}
}

// Whatever is known of the pods: the number stays within the bounds, does not
// shrink before the window is over, and settles under a steady load.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replicas := int32(rapid.IntRange(1, 20).Draw(t, "replicas"))
		h, highest := &History{}, replicas
		for i := range 19 { // less than five minutes
			in := newScaled(replicas, cpu(50))
			in.Autoscaler.Spec.MinReplicas, in.Autoscaler.Spec.MaxReplicas = new(int32(2)), 15
			in.Now = begin.Add(time.Duration(i) * 15 * time.Second)
			for range replicas {
				in.pod(float64(rapid.IntRange(-20, 300).Draw(t, "use")), rapid.SampledFrom([]func(*corev1.Pod){
					func(*corev1.Pod) {}, pending, ending, neverReady, young(time.Second),
				}).Draw(t, "pod"))
			}
			d := Decide(in.Input, h)
			if d.Rescale && (d.Replicas < 2 || d.Replicas > 15) {
				t.Fatalf("%d replicas", d.Replicas)
			}
			if replicas >= 2 && replicas <= 15 && d.Replicas < replicas {
				t.Fatalf("from %d to %d after %v", replicas, d.Replicas, in.Now.Sub(begin))
			}
			if d.Rescale {
				h.Changed(replicas, d.Replicas, in.Now)
			}
			replicas = d.Replicas
			highest = max(highest, replicas)
		}
		load := float64(rapid.IntRange(100, 750).Draw(t, "load"))
		path, _ := play(nil, highest, always(load), 60)
		end := path[len(path)-1]
		if share := load / float64(end); share > 56 || end > 2 && load/float64(end-1) < 44 {
			t.Fatalf("a load of %v is shared by %d: %v", load, end, path)
		}
	})
}
