package fleet_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"github.com/podsnap/podsnap/controlplane/fleet"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Demand that has grown is decided on by its first report, at that moment, and
// all replicas that it needs are one decision.
func TestAStepIsOneDecision(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, map[string]string{"type": "capacity", "target": "5", "target-proportion": "1", "max": "50"})
		r.pass(time.Minute)
		writes := r.writes()
		begin := time.Now()
		r.report("g1", api.Demand{Queued: 180, InFlight: 20, Arrived: 200})
		want(r, r.replicas(), 40)
		want(r, time.Since(begin), 0)
		want(r, r.writes()-writes, 1)
		var last api.ScaleDecision
		for _, d := range r.decisions() {
			if d.From != d.To {
				last = d
			}
		}
		want(r, last.From, 1)
		want(r, last.To, 40)
		want(r, last.Reason, "capacity 200 at 5 a replica asks for 40")
		want(r, last.Inputs.Queued, 180)
		want(r, last.Time, begin)
	})
}

// writes is how often the Deployment was written.
func (r *rig) writes() int64 {
	r.Helper()
	d, err := api.Get[*appsv1.Deployment](r.ctx, r.objects, api.Deployments, resize.Namespace, resize.Name)
	if err != nil {
		r.Fatal(err)
	}
	return d.Generation
}

// The use of CPU is asked for at each decision, and Look brings one about.
func TestCPU(t *testing.T) {
	in(t, func(r *rig) {
		r.end()
		use := autoscale.CPU{}
		f, err := fleet.New(fleet.Config{
			Objects: r.objects, Settle: time.Second,
			Policy: func(*appsv1.Deployment) autoscale.Policy {
				return policy(map[string]string{"type": "cpu", "target": "500", "target-proportion": "1"})
			},
			CPU: func(types.NamespacedName) autoscale.CPU { return use },
		})
		if err != nil {
			r.Fatal(err)
		}
		r.run(f)
		r.deploy(1, nil)
		r.pass(time.Minute)
		want(r, r.replicas(), 1)
		use = autoscale.CPU{Milli: 1400, Replicas: 1}
		want(r, r.replicas(), 1)
		f.Look(resize)
		synctest.Wait()
		want(r, r.replicas(), 3)
	})
}
