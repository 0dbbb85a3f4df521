package nodeagent_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/pressure"
)

// short is the node's condition MemoryPressure, as it is told.
func (r *rig) short() corev1.ConditionStatus {
	r.t.Helper()
	n, err := api.Get[*corev1.Node](r.t.Context(), r.o.Objects, api.Nodes, "", "n1")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeMemoryPressure {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

func TestMemoryPressure(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		want := func(s corev1.ConditionStatus) {
			t.Helper()
			if got := r.short(); got != s {
				t.Errorf("MemoryPressure is %s, want %s", got, s)
			}
		}
		r.after(2 * time.Second)
		want(corev1.ConditionFalse)
		r.available.Store(5)
		r.after(time.Second) // a heartbeat
		want(corev1.ConditionTrue)
		r.available.Store(50)
		r.after(time.Second)
		want(corev1.ConditionFalse)
		// Less than enough is a shortage when tasks wait for memory, and then at
		// once.
		r.available.Store(17)
		r.after(20 * time.Second)
		want(corev1.ConditionFalse)
		r.after(time.Millisecond)
		r.stall <- struct{}{}
		r.after(0)
		want(corev1.ConditionTrue)
		r.after(15 * time.Second)
		want(corev1.ConditionFalse)
	})
}

// memory is the rig's machine, of 100 bytes.
func (r *rig) memory() pressure.Memory {
	return pressure.Memory{Total: 100, Available: r.available.Load()}
}

func (r *rig) stalls(ctx context.Context, told func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.stall:
			told()
		}
	}
}
