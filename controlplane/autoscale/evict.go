package autoscale

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Idle is a replica that has nothing to do and might be ended.
type Idle struct {
	Pod      types.UID
	Function types.NamespacedName
	Tier     Tier
	Memory   uint64        // bytes that ending it gives back, its own and its tier's
	Chance   float64       // that it is needed within EvictHorizon, 0 to 1: Gaps.Soon
	Cold     time.Duration // what a start costs that its end may cause; 0 is ReadyNone
}

// EvictHorizon is the time over which the chance of being needed is taken.
const EvictHorizon = 10 * time.Minute

// Value is what keeping the replica is worth: seconds of waiting that it is
// expected to spare, for each MiB that it holds.
func (i Idle) Value() float64 {
	return i.Chance * cmp.Or(i.Cold, ReadyNone).Seconds() / max(float64(i.Memory), 1) * (1 << 20)
}

// Eviction is a replica to be ended, and why.
type Eviction struct {
	Idle
	Reason string
}

// Evict chooses replicas to end so that need bytes become free: the least
// valuable first, and of those none that is not needed for it. When all together
// do not hold so much, all go; freed is what those chosen hold. Replicas without
// memory stay. The order is the same for the same input, whatever its order.
func Evict(replicas []Idle, need uint64) (out []Eviction, freed uint64) {
	all := slices.DeleteFunc(slices.Clone(replicas), func(i Idle) bool { return i.Memory == 0 })
	slices.SortFunc(all, func(a, b Idle) int {
		return cmp.Or(cmp.Compare(a.Value(), b.Value()), cmp.Compare(b.Memory, a.Memory), cmp.Compare(a.Pod, b.Pod))
	})
	n := 0
	for n < len(all) && freed < need {
		freed += all[n].Memory
		n++
	}
	// The last one may have brought so much that some before it may stay, the
	// most valuable ones first.
	chosen := all[:n]
	for i := n - 1; i >= 0; i-- {
		if m := chosen[i].Memory; freed >= need && freed-m >= need {
			freed -= m
			chosen = slices.Delete(chosen, i, i+1)
		}
	}
	for _, c := range chosen {
		out = append(out, Eviction{Idle: c, Reason: fmt.Sprintf(
			"%d MiB are needed: it holds %.3g MiB, is needed within %s with a chance of %.2g, and a start costs %s, the least for its memory",
			(need+1<<20-1)>>20, float64(c.Memory)/(1<<20), EvictHorizon, c.Chance, cmp.Or(c.Cold, ReadyNone))})
	}
	return out, freed
}

// Pressure is how full a node's memory is, in bytes.
type Pressure struct {
	Total, Used uint64
}

// Where eviction begins, and how far it goes, in percent of the memory: apart,
// so that it does not begin again at once.
const (
	pressureHigh = 90
	pressureLow  = 80
)

// Need is how much has to become free, 0 while there is enough.
func (p Pressure) Need() uint64 {
	if p.Used <= p.Total/100*pressureHigh {
		return 0
	}
	return p.Used - p.Total/100*pressureLow
}
