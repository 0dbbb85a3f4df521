package dialect

import (
	"context"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// usage remembers each pod's processor time of the last time somebody asked:
// the use now is the difference.
type usage struct {
	mu   sync.Mutex
	last map[types.UID]cpuSample
}

type cpuSample struct {
	at      time.Time
	seconds float64
	milli   float64
}

const (
	maxSamples = 10_000
	leastSpan  = time.Second // between two samples; nearer ones say little
)

func newUsage() *usage { return &usage{last: map[types.UID]cpuSample{}} }

// rate is a pod's use of processors in thousandths, 0 until there are two
// samples.
func (u *usage) rate(pod types.UID, at time.Time, seconds float64) float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.last) >= maxSamples {
		clear(u.last)
	}
	old, ok := u.last[pod]
	span := at.Sub(old.at)
	switch {
	case !ok || seconds < old.seconds:
		old = cpuSample{at: at, seconds: seconds}
	case span >= leastSpan:
		old = cpuSample{at: at, seconds: seconds, milli: (seconds - old.seconds) / span.Seconds() * 1000}
	}
	u.last[pod] = old
	return old.milli
}

// used sums what the replicas of a function use, and counts the frozen ones. A node that does not answer
// counts nothing.
func (d *Dialect) used(ctx context.Context, ns, name string) *openfaas.Usage {
	pods, err := d.pods(ctx, ns, name)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out := &openfaas.Usage{}
	byNode := map[string]map[types.UID]bool{}
	for _, p := range pods {
		if api.IsFrozen(&p.Status) {
			out.FrozenReplicas++
		}
		if n := p.Spec.NodeName; n != "" {
			if byNode[n] == nil {
				byNode[n] = map[types.UID]bool{}
			}
			byNode[n][p.UID] = true
		}
	}
	for node, mine := range byNode {
		agent, err := d.c.Agents(ctx, node)
		if err != nil {
			continue
		}
		stats, err := agent.Stats(ctx)
		if err != nil {
			continue
		}
		for _, p := range stats.Pods {
			if !mine[p.UID] {
				continue
			}
			seconds := 0.0
			for _, c := range p.Containers {
				seconds += c.CPUSeconds
				out.TotalMemoryBytes += float64(c.Memory)
			}
			out.CPU += d.usage.rate(p.UID, stats.Time, seconds)
		}
	}
	return out
}

// pods lists the replicas of a function.
func (d *Dialect) pods(ctx context.Context, ns, name string) ([]*corev1.Pod, error) {
	return api.Items[*corev1.Pod](ctx, d.c.Objects, api.Pods, api.ListOptions{
		Namespace: ns, Labels: labels.SelectorFromSet(labels.Set{api.LabelFunction: name}),
	})
}
