package fast

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/nodeagent"
)

const spinRef = "podsnap.test/spin:1"

// frozenNode is a node agent over real containers.
type frozenNode struct {
	*node
	o     *memory.Objects
	agent *nodeagent.Agent
	stop  func()
}

func (n *frozenNode) start() {
	n.t.Helper()
	a, err := nodeagent.New(nodeagent.Config{
		NodeName: "n1", NodeIP: "127.0.0.1", Objects: n.o, Runtime: n.Runtime, Images: n.engine.Images(), Stats: n.Runtime,
		StateDir: filepath.Join(n.dir, "a"), Log: n.config.Log,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	n.agent = a
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	}
}

// await returns the pod's state as soon as it is as wanted.
func (n *frozenNode) await(uid types.UID, what string, ok func(api.PodState) bool) api.PodState {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	states, err := n.agent.Observe(ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	for s := range states {
		if s.UID == uid && ok(s) {
			return s
		}
	}
	n.t.Fatalf("never came: %s", what)
	return api.PodState{}
}

func frozen(s api.PodState) bool { return api.IsFrozen(&s.Status) }

func ready(s api.PodState) bool {
	for _, c := range s.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// cpu is the processor time of the node's only pod, in seconds.
func (n *frozenNode) cpu() float64 {
	n.t.Helper()
	s, err := n.agent.Stats(n.t.Context())
	if err != nil || len(s.Pods) != 1 || len(s.Pods[0].Containers) != 1 {
		n.t.Fatalf("stats %+v, %v", s, err)
	}
	return s.Pods[0].Containers[0].CPUSeconds
}

// still fails when the pod works within a while.
func (n *frozenNode) still() {
	n.t.Helper()
	before := n.cpu()
	<-time.After(300 * time.Millisecond) // of a program that works all the time
	if used := n.cpu() - before; used > 0.005 {
		n.t.Errorf("a frozen pod has used %.3f s of processor time", used)
	}
}

// A function that works without being called is frozen, found frozen by the
// next agent, thawed, frozen and ended: by SIGTERM, which it can answer only
// when it is thawed for it.
func TestFrozenPod(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "spin")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./testdata/spin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	spin, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	n := &frozenNode{node: newNode(t), o: memory.New()}
	img := testImage(t, v1.Config{Entrypoint: []string{"/spin"}, User: "1000"}, layer(t, file{name: "spin", body: spin, mode: 0o755}))
	if _, err := n.engine.Images().Import(t.Context(), archive(t, spinRef, img)); err != nil {
		t.Fatal(err)
	}
	n.start()
	defer func() { n.stop() }()
	p, err := api.Create(t.Context(), api.Objects(n.o), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "spin", Labels: map[string]string{api.LabelFunction: "spin"}},
		Spec: corev1.PodSpec{NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{
			Name: "spin", Image: spinRef, ImagePullPolicy: corev1.PullNever, Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	set := func(round uint64, to bool) {
		t.Helper()
		if err := n.agent.SetFrozen(t.Context(), p.UID, round, to); err != nil {
			t.Fatal(err)
		}
	}
	ip := n.await(p.UID, "ready", ready).Status.PodIP
	set(1, true)
	n.await(p.UID, "the condition", frozen)
	n.still()

	n.stop()
	n.start()
	n.await(p.UID, "frozen and ready after a restart of the agent", func(s api.PodState) bool { return frozen(s) && ready(s) })
	n.still()

	begin := time.Now()
	set(1, false)
	thaw := time.Since(begin)
	if _, err := get(ip, "/"); err != nil {
		t.Errorf("after the thaw: %v", err)
	}
	t.Logf("thawed after %s, answered after %s", thaw, time.Since(begin))
	before := n.cpu()
	n.await(p.UID, "work after the thaw", func(api.PodState) bool { return true })
	for n.cpu() == before { // it does not stand still
		<-time.After(10 * time.Millisecond)
	}
	set(2, true)
	n.await(p.UID, "the condition again", frozen)
	grace := int64(20)
	if _, err := n.o.Delete(t.Context(), api.Pods, "default", "spin", api.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
	last := n.await(p.UID, "the end", func(s api.PodState) bool {
		cs := s.Status.ContainerStatuses
		return len(cs) == 1 && cs[0].State.Terminated != nil
	})
	if code := last.Status.ContainerStatuses[0].State.Terminated.ExitCode; code != 3 {
		t.Errorf("exit code %d, want that of SIGTERM", code)
	}
	for {
		if boxes, err := n.Runtime.List(t.Context()); err != nil || len(boxes) == 0 {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
}
