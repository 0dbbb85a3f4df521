package nodeagent_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/nodeagent"
	"github.com/podsnap/podsnap/nodeagent/runtime/fake"
	"github.com/podsnap/podsnap/test/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a node over a fake engine.
type rig struct {
	t      *testing.T
	o      *shaky
	engine *fake.Runtime
	dir    string
	agent  *nodeagent.Agent
	events *notes
	stop   func()

	available atomic.Int64 // memory, in percent
	stall     chan struct{}

	metrics *prometheus.Registry

	guard func(p *corev1.Pod, addresses []string) error // nil lets pods start

	files  chan []*corev1.Pod // static pods that are there from now on; nil: none ever
	static []*corev1.Pod      // those at a start
}

// shaky is Objects that can be out of reach.
type shaky struct {
	api.Objects
	mu     sync.Mutex
	down   bool
	writes int
	asked  int // requests of all kinds but watches
	silent int // updates that are still to get no answer
}

// count answers with the writes since the last count.
func (s *shaky) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.writes
	s.writes = 0
	return n
}

// requests answers with the number of requests since it was asked last.
func (s *shaky) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.asked
	s.asked = 0
	return n
}

func (s *shaky) fail() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.down {
		return apierrors.NewServiceUnavailable("the store does not answer")
	}
	return nil
}

func (s *shaky) set(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

func (s *shaky) Get(ctx context.Context, r *api.Resource, ns, name string) (api.Object, error) {
	if err := s.fail(); err != nil {
		return nil, err
	}
	return s.Objects.Get(ctx, r, ns, name)
}

func (s *shaky) Update(ctx context.Context, obj api.Object, o api.UpdateOptions) (api.Object, error) {
	if err := s.fail(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.writes++
	mute := s.silent > 0
	if mute {
		s.silent--
	}
	s.mu.Unlock()
	if mute {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return s.Objects.Update(ctx, obj, o)
}

func (s *shaky) Delete(ctx context.Context, r *api.Resource, ns, name string, o api.DeleteOptions) (api.Object, error) {
	if err := s.fail(); err != nil {
		return nil, err
	}
	return s.Objects.Delete(ctx, r, ns, name, o)
}

// notes are the events told.
type notes struct {
	mu   sync.Mutex
	said []string
}

func (n *notes) Event(_ api.Object, _, reason, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.said = append(n.said, reason+": "+message)
}

func (n *notes) has(part string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.said, func(s string) bool { return strings.Contains(s, part) })
}

// node runs test in a bubble with an agent.
func node(t *testing.T, test func(r *rig)) {
	t.Helper()
	dir := t.TempDir()
	bubble.Test(t, func(t *testing.T) {
		r := &rig{t: t, o: &shaky{Objects: memory.New()}, engine: fake.New(), dir: dir, events: &notes{}, stall: make(chan struct{})}
		r.available.Store(60)
		r.start()
		defer func() { r.stop() }()
		test(r)
	})
}

// start runs an agent on what the rig has; stop ends it.
func (r *rig) start() {
	r.t.Helper()
	r.metrics = prometheus.NewRegistry()
	c := nodeagent.Config{
		Metrics: r.metrics, Memory: r.memory, Stalls: r.stalls,
		NodeName: "n1", Objects: r.o, Runtime: r.engine, Images: r.engine.Images(), Stats: r.engine,
		StateDir: r.dir, NodeIP: "192.0.2.9", PodCIDR: "10.42.0.0/24", Dial: r.engine.Dial, OnDisk: true, Recorder: r.events,
		Guard: func(_ context.Context, p *corev1.Pod, addresses []string) error {
			if r.guard == nil {
				return nil
			}
			return r.guard(p, addresses)
		},
	}
	if r.files != nil {
		c.Static = r.statics
	}
	a, err := nodeagent.New(c)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			r.t.Errorf("run: %v", err)
		}
	}()
	r.agent = a
	r.stop = func() { cancel(); <-done }
	synctest.Wait()
}

// pod creates one that is bound to the node.
func (r *rig) pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	r.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{
			NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{Name: "main", Image: "img"}},
		},
	}
	for _, c := range change {
		c(p)
	}
	p, err := api.Create(r.t.Context(), api.Objects(r.o), p)
	if err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	return p
}

func (r *rig) get(name string) *corev1.Pod {
	r.t.Helper()
	synctest.Wait()
	p, err := api.Get[*corev1.Pod](r.t.Context(), r.o.Objects, api.Pods, "default", name)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

func (r *rig) gone(name string) bool {
	synctest.Wait()
	_, err := r.o.Objects.Get(r.t.Context(), api.Pods, "default", name)
	return apierrors.IsNotFound(err)
}

func (r *rig) del(name string) {
	r.t.Helper()
	if _, err := r.o.Objects.Delete(r.t.Context(), api.Pods, "default", name, api.DeleteOptions{}); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func (r *rig) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// look sums a pod up: "Running ready=true main:running/0".
func look(p *corev1.Pod) string {
	ready := "?"
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			ready = strings.ToLower(string(c.Status))
		}
	}
	out := fmt.Sprintf("%s ready=%s", p.Status.Phase, ready)
	for _, cs := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
		state := "none"
		switch {
		case cs.State.Running != nil:
			state = "running"
		case cs.State.Waiting != nil:
			state = cs.State.Waiting.Reason
		case cs.State.Terminated != nil:
			state = fmt.Sprintf("%s(%d)", cs.State.Terminated.Reason, cs.State.Terminated.ExitCode)
		}
		out += fmt.Sprintf(" %s:%s/%d", cs.Name, state, cs.RestartCount)
	}
	return out
}

func (r *rig) want(name, want string) {
	r.t.Helper()
	if got := look(r.get(name)); got != want {
		r.t.Errorf("%s is %s, want %s\n%v", name, got, want, r.engine.Calls())
	}
}

func function(p *corev1.Pod) {
	p.Labels = map[string]string{api.LabelFunction: p.Name}
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
}

func policy(rp corev1.RestartPolicy) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.RestartPolicy = rp }
}
