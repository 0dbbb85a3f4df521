package controller_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/meter"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// loaded is a cluster whose pods share a load, in thousandths of a core.
type loaded struct {
	*cluster
	load atomic.Int64
}

func (l *loaded) use(_ context.Context, nodes ...string) map[string]meter.Node {
	out := map[string]meter.Node{}
	pods := l.pods("default")
	for _, n := range nodes {
		node := meter.Node{Time: time.Now(), Window: 15 * time.Second, Pods: map[types.UID]meter.Pod{}}
		for _, p := range pods {
			if p.Spec.NodeName == n && p.Status.Phase == corev1.PodRunning {
				node.Pods[p.UID] = meter.Pod{Name: p.Name, Containers: map[string]meter.Use{"c": {Milli: float64(l.load.Load()) / float64(len(pods))}}}
			}
		}
		out[n] = node
	}
	return out
}

func autoscaled(t *testing.T, f func(*loaded)) {
	t.Helper()
	l := &loaded{}
	start(t, controller.Config{Use: func(ctx context.Context, nodes ...string) map[string]meter.Node { return l.use(ctx, nodes...) }}, func(c *cluster) {
		l.cluster = c
		c.node("a").state = func(p *corev1.Pod) corev1.PodStatus {
			now := metav1.Now()
			st := runs(p)
			st.StartTime, st.Conditions[0].LastTransitionTime = &now, now
			return st
		}
		d := deployment("web", "i:1", 2)
		d.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
		c.create(d)
		f(l)
	})
}

func autoscaler(name, kind, target string) *autoscalingv2.HorizontalPodAutoscaler {
	a := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	a.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: kind, Name: target}
	a.Spec.MinReplicas, a.Spec.MaxReplicas = new(int32(2)), 8
	return a
}

func (l *loaded) autoscaler(name string) *autoscalingv2.HorizontalPodAutoscaler {
	l.t.Helper()
	a, err := api.Get[*autoscalingv2.HorizontalPodAutoscaler](l.ctx, l, api.HorizontalPodAutoscalers, "default", name)
	if err != nil {
		l.t.Fatal(err)
	}
	return a
}

// scaledTo waits for the deployment web to have so many pods.
func (l *loaded) scaledTo(n int) time.Duration {
	l.t.Helper()
	begin := time.Now()
	for time.Since(begin) < time.Hour && len(l.pods("default")) != n {
		l.pass(time.Second)
	}
	if got := len(l.pods("default")); got != n {
		l.t.Fatalf("%d pods, want %d: %+v", got, n, l.autoscaler("web").Status)
	}
	return time.Since(begin)
}

func TestAutoscaler(t *testing.T) {
	autoscaled(t, func(l *loaded) {
		l.create(autoscaler("web", "Deployment", "web"))
		l.load.Store(120)
		l.pass(2 * time.Minute)
		l.scaledTo(2) // 60% of what is asked for; 80% is wanted
		l.load.Store(400)
		if took := l.scaledTo(5); took > time.Minute {
			t.Errorf("grew after %v", took)
		}
		l.load.Store(4000)
		l.scaledTo(8)
		a := l.autoscaler("web")
		if got := conditions(a); !strings.Contains(got, "AbleToScale=True") || !strings.Contains(got, "ScalingActive=True/ValidMetricFound") || !strings.Contains(got, "ScalingLimited=True/TooManyReplicas") {
			t.Errorf("conditions %s", got)
		}
		if len(a.Status.CurrentMetrics) != 1 || a.Status.LastScaleTime == nil || a.Status.DesiredReplicas != 8 {
			t.Errorf("status %+v", a.Status)
		}
		l.load.Store(10)
		if took := l.scaledTo(2); took < 5*time.Minute || took > 8*time.Minute {
			t.Errorf("shrank after %v, want some five minutes", took)
		}
		l.hasEvent("SuccessfulRescale")
	})
}

func conditions(a *autoscalingv2.HorizontalPodAutoscaler) string {
	var out []string
	for _, c := range a.Status.Conditions {
		out = append(out, fmt.Sprintf("%s=%s/%s %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return strings.Join(out, "; ")
}

func TestAutoscalerRefuses(t *testing.T) {
	autoscaled(t, func(l *loaded) {
		f := deployment("f", "i:1", 1)
		f.Labels = map[string]string{api.LabelFunction: "f"}
		l.create(f)
		l.create(autoscaler("web", "Deployment", "web"))
		for name, c := range map[string]struct{ kind, target, want string }{
			"function": {"Deployment", "f", "is the function f, which scales itself"},
			"missing":  {"Deployment", "x", `deployments.apps "x" not found`},
			"daemons":  {"DaemonSet", "x", "has no replicas"},
			"xsecond":  {"Deployment", "web", "is scaled by the autoscaler web already"},
		} {
			l.create(autoscaler(name, c.kind, c.target))
			l.eventually(name, func() error {
				if got := conditions(l.autoscaler(name)); !strings.Contains(got, "AbleToScale=False/FailedGetScale") || !strings.Contains(got, c.want) {
					return fmt.Errorf("conditions %q, want %q", got, c.want)
				}
				return nil
			})
		}
		a := autoscaler("fn", "Function", "f")
		a.Spec.ScaleTargetRef.APIVersion = api.FunctionGroup + "/v1"
		if _, err := l.Create(l.ctx, a); err == nil || !strings.Contains(err.Error(), "a function scales itself") {
			t.Errorf("an autoscaler of a function: %v", err)
		}
	})
}
