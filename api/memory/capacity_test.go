package memory_test

import (
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/seamtest"
	"k8s.io/apimachinery/pkg/types"
)

func TestCapacity(t *testing.T) {
	seamtest.Capacity(t, func(*testing.T) seamtest.CapacityRig { return capacityRig(memory.NewCapacity()) })
}

func capacityRig(c *memory.Capacity) seamtest.CapacityRig {
	f := types.NamespacedName{Namespace: "seam", Name: "resize"}
	return seamtest.CapacityRig{
		Capacity: c, Function: f,
		Ready: func(pod string) api.Endpoint {
			e := api.Endpoint{Pod: types.UID("uid-" + pod), Name: pod, Address: "127.0.0.1:8080", Concurrency: 2}
			c.Ready(f, e)
			return e
		},
		Delete:  func(pod string) { c.Delete(types.UID("uid-" + pod)) },
		Lose:    func(pod string) { c.Lose(types.UID("uid-" + pod)) },
		Fail:    func(reason string) { c.Fail(f, reason) },
		Wanted:  func() int { return c.Wanted(f) },
		Drained: func(pod string) bool { return !c.Has(types.UID("uid-" + pod)) },
	}
}
