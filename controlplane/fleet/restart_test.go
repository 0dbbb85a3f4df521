package fleet_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// restart ends the fleet, has between done while there is none, and starts a
// new one over the same objects.
func (r *rig) restart(between func()) {
	r.Helper()
	r.end()
	synctest.Wait()
	between()
	r.start()
}

func deletedWhileAway(r *rig) *corev1.Pod {
	r.deploy(1, nil)
	p := r.pod("a")
	r.status("a", running("10.0.0.1"))
	told(r.open("g1"))
	r.restart(func() { r.delete("a") })
	return p
}

// A gateway that is not back yet may have requests in flight on the pod.
func TestDrainWaitsForGatewaysAfterARestart(t *testing.T) {
	in(t, func(r *rig) {
		p := deletedWhileAway(r)
		want(r, r.drained("a"), false)
		time.Sleep(time.Second)
		s := r.open("g1")
		want(r, told(s), "DRAIN(a) SYNCED") // never READY: nothing new is sent to it
		want(r, r.drained("a"), false)
		if err := r.fleet.Drained(r.ctx, "g1", []types.UID{p.UID}); err != nil {
			r.Fatal(err)
		}
		want(r, r.drained("a"), false) // g2 may still come
		time.Sleep(3 * time.Second)
		want(r, r.drained("a"), true)
	})
}

// None comes back: the pod is not held for ever.
func TestDrainAfterARestartWithoutGateways(t *testing.T) {
	in(t, func(r *rig) {
		deletedWhileAway(r)
		want(r, r.drained("a"), false)
		time.Sleep(4 * time.Second)
		want(r, r.drained("a"), true)
	})
}

// What a gateway says of pods that are not there is not kept for later ones.
func TestDrainedOfUnknownPods(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy(1, nil)
		p := r.pod("a")
		s := r.open("g1")
		if err := r.fleet.Drained(r.ctx, "g1", []types.UID{p.UID, "none"}); err != nil {
			r.Fatal(err)
		}
		r.status("a", running("10.0.0.1"))
		time.Sleep(4 * time.Second)
		r.delete("a")
		want(r, r.drained("a"), false) // its word was of before the pod could serve
		want(r, told(s), "SYNCED READY(a) DRAIN(a)")
		if err := r.fleet.Drained(r.ctx, "g1", []types.UID{p.UID}); err != nil {
			r.Fatal(err)
		}
		want(r, r.drained("a"), true)
	})
}

// A stream that ends does so with the fleet, and says why.
func TestStreamsEndWithTheFleet(t *testing.T) {
	in(t, func(r *rig) {
		s := r.open("g1")
		r.restart(func() {})
		want(r, told(s), "SYNCED closed")
		if !errors.Is(s.Err(), context.Canceled) {
			r.Fatalf("the stream's error is %v", s.Err())
		}
		want(r, told(r.open("g1")), "SYNCED")
	})
}

// A function that was deployed just now may be called before the fleet has seen
// it: the request that waits is not forgotten.
func TestDemandBeforeTheDeployment(t *testing.T) {
	in(t, func(r *rig) {
		r.report("g1", api.Demand{Queued: 1, Arrived: 1})
		time.Sleep(time.Second)
		begin := time.Now()
		r.deploy(0, nil)
		want(r, r.replicas(), 1)
		want(r, time.Since(begin), 0)
	})
}

// But what is as old as that is not demand any more.
func TestDemandLongBeforeTheDeployment(t *testing.T) {
	in(t, func(r *rig) {
		r.report("g1", api.Demand{Queued: 1, Arrived: 1})
		time.Sleep(4 * time.Second)
		want(r, r.fleet.Known(), 0)
		r.deploy(0, nil)
		want(r, r.replicas(), 0)
	})
}
