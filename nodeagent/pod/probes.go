package pod

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podsnap/podsnap/nodeagent/probe"
)

// readiness is the container's readiness probe. A function is ready when its
// first port accepts a connection, if nothing else is said.
func readiness(p *corev1.Pod, c *corev1.Container) *corev1.Probe {
	if c.ReadinessProbe != nil || !isFunction(p) || len(c.Ports) == 0 || c.Name != p.Spec.Containers[0].Name {
		return c.ReadinessProbe
	}
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(c.Ports[0].ContainerPort)}},
		PeriodSeconds: 10, TimeoutSeconds: 1, FailureThreshold: 3, SuccessThreshold: 1,
	}
}

// watch keeps the probes of each running instance going, and only those.
func (w *Worker) watch(ctx context.Context) {
	for spec := range all(&w.s.Pod.Spec) {
		c, old := w.s.Containers[spec.Name], w.probes[spec.Name]
		run := c.running() && c.Unhealthy == "" && !w.s.Frozen && (!c.Stopping || w.s.Stop != nil)
		if old != nil && (!run || old.id != c.Current.ID) {
			old.cancel()
			delete(w.probes, spec.Name)
			old = nil
		}
		if !run || old != nil {
			continue
		}
		set := probe.Set{
			Startup: spec.StartupProbe, Liveness: spec.LivenessProbe, Readiness: readiness(w.s.Pod, spec),
			Since: c.Current.StartedAt, Started: c.Started, Ready: c.Ready,
		}
		if w.s.Stop != nil {
			set.Startup, set.Liveness = nil, nil // it ends anyhow
		}
		if set.Startup == nil && set.Liveness == nil && set.Readiness == nil {
			continue
		}
		w.probe(ctx, spec.Name, c.Current.ID, set, w.target(spec, c.Current.ID, w.s.Sandbox.IP))
	}
}

func (w *Worker) probe(ctx context.Context, name, id string, set probe.Set, t probe.Target) {
	ctx, cancel := context.WithCancel(ctx)
	w.probes[name] = &probing{id, cancel}
	w.ops.Go(func() {
		defer cancel()
		w.c.Prober.Watch(ctx, set, t, func(r probe.Result) {
			w.post(func() { w.probed(name, id, set, r) })
		})
	})
}

func (w *Worker) probed(name, id string, set probe.Set, r probe.Result) {
	if r.Err != nil {
		w.event(corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %s", r.Kind, r.Err))
	}
	if r.Kind == probe.Readiness && r.OK {
		w.stage("ready", set.Since, nil)
	}
	w.s.Probed(name, id, r)
	if w.s.Containers[name].Unhealthy != "" && !r.OK && !r.Failed && w.s.Stop == nil {
		w.event(corev1.EventTypeNormal, "Killing", fmt.Sprintf("Container %s %s, will be restarted", name, w.s.Containers[name].Unhealthy))
	}
}
