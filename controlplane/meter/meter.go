// Package meter says how much processor time and memory nodes and pods use now.
// It asks the nodes' agents when it is asked itself, and not otherwise: where
// nobody wants to know, nothing is measured.
package meter

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/pause"
	"k8s.io/apimachinery/pkg/types"
)

const (
	shortest = time.Second     // between two readings that a rate is made of
	fresh    = 5 * time.Second // as long an answer is given again
	oldest   = 2 * time.Minute // the former reading may be
	patience = 4 * time.Second // for both readings of an agent
	atOnce   = 32              // agents asked at a time
)

// Use is of resources over a time.
type Use struct {
	Milli  float64 // thousandths of a core
	Memory uint64  // working set, bytes
}

// Node is the use of a node and its pods.
type Node struct {
	Use
	Time   time.Time // end of the time
	Window time.Duration
	Pods   map[types.UID]Pod // those all of whose running containers were there all the time
}

// Pod is the use of a pod.
type Pod struct {
	Namespace, Name string
	Containers      map[string]Use
}

// Config says whom to ask.
type Config struct {
	// Agents finds a node's agent.
	Agents func(ctx context.Context, node string) (api.Agent, error)
	Log    *slog.Logger // nil discards
}

// Meter reads when it is asked. It is safe for concurrent use.
type Meter struct {
	c     Config
	room  chan struct{}
	mu    sync.Mutex
	nodes map[string]*reading
}

// reading is what is known of a node. Its turn is taken while the node is asked, so
// that those who ask at the same time get one answer.
type reading struct {
	turn   chan struct{} // of one; whoever waits for it may give up
	made   time.Time
	last   api.NodeStats
	at     time.Time // of last, by this machine's clock
	answer Node
	known  bool // answer is one
}

// New makes a Meter.
func New(c Config) (*Meter, error) {
	if c.Agents == nil {
		return nil, errors.New("meter: Agents is required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Meter{c: c, room: make(chan struct{}, atOnce), nodes: map[string]*reading{}}, nil
}

// Read answers with the use of nodes; those that do not answer are missing. It
// takes a second when they were not asked of late.
func (m *Meter) Read(ctx context.Context, nodes ...string) map[string]Node {
	var mu sync.Mutex
	out := make(map[string]Node, len(nodes))
	var wg sync.WaitGroup
	for _, n := range nodes {
		r := m.of(n)
		wg.Go(func() {
			got, err := m.read(ctx, n, r)
			if err != nil {
				if ctx.Err() == nil {
					m.c.Log.Warn("read the use of a node", slog.String("node", n), slog.Any("error", err))
				}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[n] = got
		})
	}
	wg.Wait()
	return out
}

// of is a node's reading. Those of nodes that nobody asks for any more go.
func (m *Meter) of(node string) *reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.nodes[node]
	if r != nil {
		return r
	}
	for n, old := range m.nodes {
		select {
		case old.turn <- struct{}{}:
			if time.Since(old.at) > oldest && time.Since(old.made) > oldest {
				delete(m.nodes, n)
			}
			<-old.turn
		default:
		}
	}
	r = &reading{turn: make(chan struct{}, 1), made: time.Now()}
	m.nodes[node] = r
	return r
}

func (m *Meter) read(ctx context.Context, node string, r *reading) (Node, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return Node{}, context.Cause(ctx)
	}
	if r.known && time.Since(r.at) < fresh {
		return r.answer, nil
	}
	select {
	case m.room <- struct{}{}:
		defer func() { <-m.room }()
	case <-ctx.Done():
		return Node{}, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	agent, err := m.c.Agents(ctx, node)
	if err != nil {
		return Node{}, err
	}
	if age := time.Since(r.at); age < shortest || age > oldest {
		if r.last, err = agent.Stats(ctx); err != nil {
			return Node{}, err
		}
		r.at = time.Now()
		if !pause.For(ctx, shortest) {
			return Node{}, context.Cause(ctx)
		}
	}
	now, err := agent.Stats(ctx)
	if err != nil {
		return Node{}, err
	}
	r.answer, r.known = between(r.last, now)
	r.last, r.at = now, time.Now()
	if !r.known {
		return Node{}, errors.New("its clock was set back")
	}
	return r.answer, nil
}

// between is the use from one reading to the next; false when no time went by.
func between(a, b api.NodeStats) (Node, bool) {
	span := b.Time.Sub(a.Time)
	if span <= 0 {
		return Node{}, false
	}
	rate := func(before, after float64) float64 { return max(0, after-before) / span.Seconds() * 1000 }
	out := Node{
		Use: Use{rate(a.CPUSeconds, b.CPUSeconds), b.Memory}, Time: b.Time, Window: span, Pods: make(map[types.UID]Pod, len(b.Pods)),
	}
	before := make(map[types.UID]map[string]float64, len(a.Pods))
	for _, p := range a.Pods {
		cpu := make(map[string]float64, len(p.Containers))
		for _, c := range p.Containers {
			cpu[c.Name] = c.CPUSeconds
		}
		before[p.UID] = cpu
	}
	for _, p := range b.Pods {
		pod := Pod{Namespace: p.Namespace, Name: p.Name, Containers: make(map[string]Use, len(p.Containers))}
		whole := len(p.Containers) > 0
		for _, c := range p.Containers {
			was, ok := before[p.UID][c.Name]
			if !ok || c.CPUSeconds < was {
				whole = false // it is new, or has begun anew
				break
			}
			pod.Containers[c.Name] = Use{rate(was, c.CPUSeconds), c.Memory}
		}
		if whole {
			out.Pods[p.UID] = pod
		}
	}
	return out, true
}
