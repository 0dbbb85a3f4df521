package fleet_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/seamtest"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"github.com/podsnap/podsnap/controlplane/fleet"
	"github.com/podsnap/podsnap/functions"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

func TestSeam(t *testing.T) {
	seamtest.Capacity(t, func(t *testing.T) seamtest.CapacityRig {
		r := &rig{T: t, ctx: t.Context(), objects: memory.New(memory.Config{})}
		f, err := fleet.New(fleet.Config{
			Objects: r.objects, Comeback: time.Nanosecond,
			Policy: func(d *appsv1.Deployment) autoscale.Policy {
				return autoscale.Policy{Scale: functions.Scaling(d.Labels)}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		r.fleet = f
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		r.create(0, nil)
		return r.seam()
	})
}

// seam is what stands behind the fleet: a hand in place of the node agent.
func (r *rig) seam() seamtest.CapacityRig {
	made := 0
	return seamtest.CapacityRig{
		Capacity: r.fleet, Function: resize,
		Ready: func(pod string) api.Endpoint {
			made++
			p := r.pod(pod)
			ip := fmt.Sprintf("10.0.0.%d", made)
			r.setStatus(pod, running(ip))
			return api.Endpoint{Pod: p.UID, Name: pod, Node: "n", Address: ip + ":8080", Concurrency: 7, Timeout: 3 * time.Second}
		},
		Delete: func(pod string) { r.remove(pod, api.DeleteOptions{}) },
		Lose:   func(pod string) { r.remove(pod, api.DeleteOptions{GracePeriodSeconds: new(int64(0))}) },
		Fail: func(string) {
			r.pod("failing")
			r.setStatus("failing", waiting("ErrImagePull", 0))
		},
		Wanted: func() int {
			d, err := api.Get[*appsv1.Deployment](r.ctx, r.objects, api.Deployments, resize.Namespace, resize.Name)
			if err != nil {
				r.Fatal(err)
			}
			return int(*d.Spec.Replicas)
		},
		Drained: func(pod string) bool {
			p, err := api.Get[*corev1.Pod](r.ctx, r.objects, api.Pods, resize.Namespace, pod)
			if err != nil {
				r.Fatal(err)
			}
			return p.Annotations[api.AnnotationDrained] != ""
		},
	}
}

func (r *rig) remove(pod string, o api.DeleteOptions) {
	r.Helper()
	if _, err := r.objects.Delete(r.ctx, api.Pods, resize.Namespace, pod, o); err != nil {
		r.Fatal(err)
	}
}
