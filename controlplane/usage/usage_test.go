package usage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Sampler over objects and agents in memory, in a bubble. The agents'
// pods use a whole core each.
type rig struct {
	*testing.T
	objects *memory.Objects
	sampler *Sampler

	mu     sync.Mutex
	agents map[string]*memory.Agent
	away   map[string]bool
	asked  map[string]int // agents, by node
	told   map[string]int
}

func in(t *testing.T, f func(*rig)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		r := &rig{T: t, objects: memory.New(memory.Config{}), agents: map[string]*memory.Agent{}, away: map[string]bool{}, asked: map[string]int{}, told: map[string]int{}}
		for _, n := range []string{"n1", "n2"} {
			r.agents[n] = memory.NewAgent()
		}
		s, err := New(Config{Objects: r.objects, Agents: r.agent, Told: func(k types.NamespacedName) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.told[k.Name]++
		}})
		if err != nil {
			t.Fatal(err)
		}
		r.sampler = s
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		f(r)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (r *rig) agent(_ context.Context, node string) (api.Agent, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[node]++
	if r.away[node] {
		return nil, errors.New("the node is away")
	}
	return r.agents[node], nil
}

func (r *rig) deploy(name string, labels map[string]string) {
	r.Helper()
	l := map[string]string{api.LabelFunction: name}
	for k, v := range labels {
		l["com.openfaas.scale."+k] = v
	}
	if _, err := r.objects.Create(r.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "f", Name: name, Labels: l}}); err != nil {
		r.Fatal(err)
	}
}

// start has a replica run on a node.
func (r *rig) start(function, node string, n int) types.UID {
	r.Helper()
	p, err := api.Create(r.Context(), r.objects, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "f", Name: fmt.Sprintf("%s-%d", function, n), Labels: map[string]string{api.LabelFunction: function}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	})
	if err != nil {
		r.Fatal(err)
	}
	if err := r.agents[node].Start(r.Context(), []*corev1.Pod{p}); err != nil {
		r.Fatal(err)
	}
	_, err = api.Mutate(r.Context(), r.objects, api.Pods, "f", p.Name, api.UpdateOptions{Subresource: "status"}, func(p *corev1.Pod) (bool, error) {
		p.Status.Phase = corev1.PodRunning
		return true, nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return p.UID
}

// set makes nodes answer or not.
func (r *rig) set(away bool, nodes ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range nodes {
		r.away[n] = away
	}
}

func (r *rig) count(of map[string]int, key string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return of[key]
}

func (r *rig) want(function string, replicas int, milli float64) {
	r.Helper()
	got := r.sampler.CPU(types.NamespacedName{Namespace: "f", Name: function})
	if got.Replicas != replicas || got.Milli < milli-1e-6 || got.Milli > milli+1e-6 {
		r.Fatalf("cpu of %s: %+v, want %v of %d", function, got, milli, replicas)
	}
}

func TestUse(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy("busy", map[string]string{"type": "cpu"})
		r.deploy("also", map[string]string{"type": "rps", "target.cpu": "500"})
		r.deploy("other", map[string]string{"type": "rps"})
		r.start("busy", "n1", 1)
		r.start("busy", "n2", 2)
		r.start("also", "n2", 1)
		r.start("other", "n1", 1)
		time.Sleep(2 * time.Second)
		r.want("busy", 0, 0) // one sample says nothing
		time.Sleep(9 * time.Second)
		r.want("busy", 2, 1000)
		r.want("also", 1, 1000)
		r.want("other", 0, 0)
		if r.count(r.told, "busy") == 0 || r.count(r.told, "other") > 0 {
			t.Fatal("only of those with a target of cpu is to be told")
		}
	})
}

// While nobody scales by CPU no agent is asked, and nothing wakes up.
func TestNobodyWantsIt(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy("other", map[string]string{"type": "rps"})
		r.start("other", "n1", 1)
		time.Sleep(time.Hour)
		if r.count(r.asked, "n1") > 0 {
			t.Fatal("asked an agent")
		}
		r.deploy("busy", map[string]string{"type": "cpu"})
		r.start("busy", "n1", 1)
		time.Sleep(15 * time.Second)
		r.want("busy", 1, 1000)
		if r.count(r.asked, "n2") > 0 {
			t.Fatal("asked a node without replicas of it")
		}
		if _, err := r.objects.Delete(r.Context(), api.Deployments, "f", "busy", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		r.want("busy", 0, 0)
		asked := r.count(r.asked, "n1")
		time.Sleep(time.Hour)
		if now := r.count(r.asked, "n1"); now != asked {
			t.Fatalf("asked %d times after the function was gone", now-asked)
		}
	})
}

// A node that does not answer leaves the others' replicas; what was known of
// its own becomes too old to be used.
func TestNodeAway(t *testing.T) {
	in(t, func(r *rig) {
		r.deploy("busy", map[string]string{"type": "cpu"})
		r.start("busy", "n1", 1)
		gone := r.start("busy", "n2", 2)
		time.Sleep(16 * time.Second)
		r.want("busy", 2, 1000)
		r.set(true, "n2")
		time.Sleep(30 * time.Second)
		r.want("busy", 1, 1000)
		r.set(true, "n1")
		before := r.count(r.told, "busy")
		time.Sleep(30 * time.Second)
		r.want("busy", 0, 0)
		if r.count(r.told, "busy") == before {
			t.Fatal("nobody was told that it is not known any more")
		}
		r.set(false, "n1", "n2")
		if err := r.agents["n2"].Stop(r.Context(), gone, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		r.want("busy", 1, 1000)
	})
}

func TestSeries(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(0, 0).Add(time.Duration(s * float64(time.Second))) }
	for _, c := range []struct {
		name    string
		samples []sample
		now     float64
		milli   float64
		ok      bool
	}{
		{"none", nil, 0, 0, false},
		{"one", []sample{{at(0), 1}}, 0, 0, false},
		{"two", []sample{{at(0), 1}, {at(5), 3}}, 5, 400, true},
		{"the same answer twice", []sample{{at(0), 1}, {at(0), 1}}, 0, 0, false},
		{"too old", []sample{{at(0), 1}, {at(5), 3}}, 16, 0, false},
		{"only the window", []sample{{at(0), 0}, {at(5), 50}, {at(10), 51}, {at(15), 52}, {at(20), 53}}, 20, 200, true},
		{"a window with long steps", []sample{{at(0), 0}, {at(60), 60}, {at(120), 90}}, 120, 500, true},
		{"its container has begun anew", []sample{{at(0), 7}, {at(5), 9}, {at(10), 1}}, 10, 0, false},
		{"and is measured again", []sample{{at(0), 7}, {at(5), 9}, {at(10), 1}, {at(15), 2}}, 15, 200, true},
	} {
		s := &series{}
		for _, n := range c.samples {
			s.add(n)
		}
		if milli, ok := s.rate(at(c.now), 10*time.Second); milli != c.milli || ok != c.ok {
			t.Errorf("%s: %v %v, want %v %v", c.name, milli, ok, c.milli, c.ok)
		}
		if len(s.samples) > int(autoscale.CPUWindow/time.Second)/5+2 {
			t.Errorf("%s: %d samples are kept", c.name, len(s.samples))
		}
	}
}
