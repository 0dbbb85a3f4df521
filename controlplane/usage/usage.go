// Package usage reads from the node agents how much CPU the replicas of those
// functions use that scale by it. Nothing is read for others.
package usage

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"github.com/podsnap/podsnap/functions"
	"github.com/podsnap/podsnap/internal/mirror"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// patience is how long a node's agent may take to answer.
	patience = 2 * time.Second
	// atOnce is how many agents are asked at a time.
	atOnce = 32
)

// Config says whom to ask.
type Config struct {
	Objects api.Objects
	// Agents finds a node's agent.
	Agents func(ctx context.Context, node string) (api.Agent, error)
	// Told is called when a function's use was read anew, or is not known any
	// more; nil when nobody wants to know.
	Told  func(types.NamespacedName)
	Every time.Duration // between two readings; 0 is 5 s
	Log   *slog.Logger  // nil discards
}

// Sampler reads while Run runs.
type Sampler struct {
	c       Config
	sources []*mirror.Mirror[*appsv1.Deployment] // of functions that want it
	kick    chan struct{}                        // there may be one more of them
	series  map[types.UID]*series                // only Run's

	mu  sync.Mutex
	use map[types.NamespacedName]autoscale.CPU
}

// New makes a Sampler.
func New(c Config) (*Sampler, error) {
	if c.Objects == nil || c.Agents == nil {
		return nil, errors.New("usage: Objects and Agents are required")
	}
	if c.Every == 0 {
		c.Every = 5 * time.Second
	}
	if c.Told == nil {
		c.Told = func(types.NamespacedName) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sampler{c: c, kick: make(chan struct{}, 1), series: map[types.UID]*series{}, use: map[types.NamespacedName]autoscale.CPU{}}
	byType, err := labels.NewRequirement(functions.LabelScalePrefix+"type", selection.Equals, []string{functions.ScaleCPU})
	if err != nil {
		return nil, err
	}
	byTarget, err := labels.NewRequirement(functions.LabelScalePrefix+"target.cpu", selection.Exists, nil)
	if err != nil {
		return nil, err
	}
	for _, r := range []*labels.Requirement{byType, byTarget} {
		m := mirror.New[*appsv1.Deployment](c.Objects, api.Deployments, mirror.Options{Labels: labels.NewSelector().Add(*r), Log: c.Log})
		m.OnChange(func(api.EventType, *appsv1.Deployment, *appsv1.Deployment) {
			select {
			case s.kick <- struct{}{}:
			default:
			}
		})
		s.sources = append(s.sources, m)
	}
	return s, nil
}

// CPU is what a function's replicas use; not known for one that does not scale
// by it, or when its nodes do not answer.
func (s *Sampler) CPU(f types.NamespacedName) autoscale.CPU {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.use[f]
}

// Run reads until ctx is done.
func (s *Sampler) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, m := range s.sources {
		wg.Go(func() { _ = m.Run(ctx) }) // it returns nil
	}
	tick := time.NewTicker(s.c.Every)
	defer tick.Stop()
	for {
		s.round(ctx)
		// While no function wants it there is nothing to wake up for.
		var next <-chan time.Time
		if len(s.series) > 0 || s.any() {
			next = tick.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		case <-s.kick:
		}
	}
}

func (s *Sampler) any() bool {
	for _, m := range s.sources {
		if m.Len() > 0 {
			return true
		}
	}
	return false
}

// replica is one whose use is wanted.
type replica struct {
	pod      types.UID
	function types.NamespacedName
}

// round reads once.
func (s *Sampler) round(ctx context.Context) {
	byNode, wanted := s.replicas(ctx)
	for node, stats := range s.ask(ctx, byNode) {
		mine := map[types.UID]bool{}
		for _, r := range byNode[node] {
			mine[r.pod] = true
		}
		for _, p := range stats.Pods {
			if !mine[p.UID] || len(p.Containers) == 0 {
				continue
			}
			if s.series[p.UID] == nil {
				s.series[p.UID] = &series{}
			}
			s.series[p.UID].add(sample{stats.Time, seconds(p)})
		}
	}
	s.publish(byNode, wanted)
}

func seconds(p api.PodStats) (cpu float64) {
	for _, c := range p.Containers {
		cpu += c.CPUSeconds
	}
	return cpu
}

// replicas are the running ones of the functions that want it, by node.
func (s *Sampler) replicas(ctx context.Context) (byNode map[string][]replica, wanted map[types.NamespacedName]bool) {
	byNode, wanted = map[string][]replica{}, map[types.NamespacedName]bool{}
	for _, m := range s.sources {
		for _, d := range m.List() {
			k := types.NamespacedName{Namespace: d.Namespace, Name: d.Name}
			if d.DeletionTimestamp != nil || wanted[k] || d.Labels[api.LabelFunction] == "" {
				continue
			}
			wanted[k] = true
			pods, err := api.Items[*corev1.Pod](ctx, s.c.Objects, api.Pods, api.ListOptions{
				Namespace: k.Namespace, Labels: labels.SelectorFromSet(labels.Set{api.LabelFunction: k.Name}),
			})
			if err != nil && ctx.Err() == nil {
				s.c.Log.Warn("list the replicas of a function that scales by cpu", slog.String("function", k.String()), slog.Any("error", err))
			}
			for _, p := range pods {
				if p.Spec.NodeName != "" && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
					byNode[p.Spec.NodeName] = append(byNode[p.Spec.NodeName], replica{p.UID, k})
				}
			}
		}
	}
	return byNode, wanted
}

// ask asks the agents of all nodes. One that does not answer is left out.
func (s *Sampler) ask(ctx context.Context, byNode map[string][]replica) map[string]api.NodeStats {
	var mu sync.Mutex
	out := map[string]api.NodeStats{}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for node := range byNode {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			agent, err := s.c.Agents(ctx, node)
			if err == nil {
				var stats api.NodeStats
				if stats, err = agent.Stats(ctx); err == nil {
					mu.Lock()
					out[node] = stats
					mu.Unlock()
				}
			}
			if err != nil && ctx.Err() == nil {
				s.c.Log.Warn("read the use of cpu", slog.String("node", node), slog.Any("error", err))
			}
			return nil
		})
	}
	_ = g.Wait() // none is returned
	return out
}

// publish makes each function's use known and forgets replicas that are gone.
func (s *Sampler) publish(byNode map[string][]replica, wanted map[types.NamespacedName]bool) {
	now, there := time.Now(), map[types.UID]bool{}
	use := map[types.NamespacedName]autoscale.CPU{}
	for _, rs := range byNode {
		for _, r := range rs {
			there[r.pod] = true
			milli, ok := s.series[r.pod].rate(now, 2*s.c.Every)
			if !ok {
				continue
			}
			u := use[r.function]
			u.Milli += (milli - u.Milli) / float64(u.Replicas+1)
			u.Replicas++
			use[r.function] = u
		}
	}
	for pod := range s.series {
		if !there[pod] {
			delete(s.series, pod)
		}
	}
	s.mu.Lock()
	before := s.use
	s.use = use
	s.mu.Unlock()
	for f := range wanted {
		if _, known := use[f]; known || before[f].Replicas > 0 {
			s.c.Told(f)
		}
	}
}
