package seamtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Agent checks an api.Agent. open makes one with no pods for each part, running,
// and cleans up with t. Its engine must have an image "img" whose containers
// write a line at their start, run until they are stopped, and know a command
// "true" that ends with 0.
func Agent(t *testing.T, open func(t *testing.T) api.Agent) {
	t.Helper()
	for _, part := range []struct {
		name string
		run  func(*node)
	}{
		{"StartsAndStops", startsAndStops},
		{"StartIsIdempotent", startIsIdempotent},
		{"StartRefuses", startRefuses},
		{"ListsInOrder", listsInOrder},
		{"Observes", observes},
		{"UnknownPods", unknownPods},
		{"Logs", logs},
		{"FollowsLogs", followsLogs},
		{"Executes", executes},
		{"Attaches", attaches},
		{"Stats", stats},
		{"Freezes", freezes},
	} {
		t.Run(part.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			part.run(&node{T: t, a: open(t), ctx: func() context.Context { return ctx }})
		})
	}
}

type node struct {
	*testing.T
	a   api.Agent
	ctx func() context.Context
}

func (n *node) pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "seam", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways,
			Containers:    []corev1.Container{{Name: "main", Image: "img"}, {Name: "second", Image: "img"}},
		},
	}
}

// start has the pods run and waits until they are ready.
func (n *node) start(pods ...*corev1.Pod) {
	n.Helper()
	if err := n.a.Start(n.ctx(), pods); err != nil {
		n.Fatalf("start: %v", err)
	}
	for _, p := range pods {
		n.await(p.UID, isReady)
	}
}

// await observes until a state of the pod satisfies done.
func (n *node) await(uid types.UID, done func(api.PodState) bool) api.PodState {
	n.Helper()
	ctx, cancel := context.WithTimeout(n.ctx(), patience)
	defer cancel()
	ch, err := n.a.Observe(ctx)
	if err != nil {
		n.Fatalf("observe: %v", err)
	}
	var last api.PodState
	for s := range ch {
		if s.UID == uid {
			if last = s; done(s) {
				return s
			}
		}
	}
	n.Fatalf("the state waited for did not come; the last one is %+v", last)
	return last
}

func freezes(n *node) {
	p := n.pod("a")
	n.start(p)
	set := func(round uint64, frozen bool) error { return n.a.SetFrozen(n.ctx(), p.UID, round, frozen) }
	must := func(round uint64, frozen bool) {
		n.Helper()
		if err := set(round, frozen); err != nil {
			n.Fatalf("frozen %v in round %d: %v", frozen, round, err)
		}
		n.await(p.UID, func(s api.PodState) bool { return api.IsFrozen(&s.Status) == frozen && isReady(s) })
	}
	refused := func(round uint64) {
		n.Helper()
		if err := set(round, true); !apierrors.IsConflict(err) {
			n.Errorf("freeze in round %d, which is over: %v, want Conflict", round, err)
		}
	}
	must(2, true)
	must(2, true) // again
	must(2, false)
	refused(1)
	refused(2)
	must(4, false) // it runs: the round is over all the same
	refused(3)
	refused(4)
	must(5, true)
	if code, err := n.a.Exec(n.ctx(), p.UID, api.ExecOptions{Command: []string{"true"}}); code != 0 || err != nil {
		n.Errorf("a command in a frozen pod: %d, %v", code, err)
	}
	must(6, true)
	ch, err := n.a.Observe(n.ctx())
	if err != nil {
		n.Fatalf("observe: %v", err)
	}
	if err := n.a.Stop(n.ctx(), p.UID, time.Second); err != nil {
		n.Fatalf("stop a frozen pod: %v", err)
	}
	for s := range ch {
		if s.Gone {
			break
		}
	}
	for _, frozen := range []bool{true, false} {
		if err := set(9, frozen); !apierrors.IsNotFound(err) {
			n.Errorf("of a pod that is gone: %v, want NotFound", err)
		}
	}
}

func isReady(s api.PodState) bool {
	for _, c := range s.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (n *node) list() []api.PodState {
	n.Helper()
	l, err := n.a.List(n.ctx())
	if err != nil {
		n.Fatalf("list: %v", err)
	}
	return l
}

func startsAndStops(n *node) {
	ch, err := n.a.Observe(n.ctx())
	if err != nil {
		n.Fatalf("observe: %v", err)
	}
	p := n.pod("a")
	n.start(p)
	l := n.list()
	if len(l) != 1 || l[0].UID != p.UID || l[0].Namespace != "seam" || l[0].Name != "a" || l[0].Gone {
		n.Fatalf("list %+v", l)
	}
	st := l[0].Status
	if st.Phase != corev1.PodRunning || st.PodIP == "" || st.StartTime == nil || len(st.ContainerStatuses) != 2 {
		n.Errorf("status %+v", st)
	}
	for _, cs := range st.ContainerStatuses {
		if cs.State.Running == nil || !cs.Ready || cs.RestartCount != 0 {
			n.Errorf("container %+v", cs)
		}
	}
	for range 2 { // the second one finds it stopping or gone
		if err := n.a.Stop(n.ctx(), p.UID, 5*time.Second); err != nil {
			n.Fatalf("stop: %v", err)
		}
	}
	gone := 0
	for gone == 0 {
		select {
		case s, ok := <-ch:
			if !ok {
				n.Fatal("the stream ended before the pod was gone")
			}
			if s.Gone {
				gone++
			}
		case <-time.After(patience):
			n.Fatal("the pod is not gone")
		}
	}
	if l := n.list(); len(l) != 0 {
		n.Errorf("list after the end %+v", l)
	}
}

func startIsIdempotent(n *node) {
	p := n.pod("a")
	n.start(p)
	was := n.list()[0].Status.ContainerStatuses[0].ContainerID
	n.start(p, n.pod("b"))
	l := n.list()
	if len(l) != 2 || l[0].Status.ContainerStatuses[0].ContainerID != was {
		n.Errorf("a second start changed what runs: %+v", l)
	}
}

func startRefuses(n *node) {
	p := n.pod("a")
	p.UID = ""
	if err := n.a.Start(n.ctx(), []*corev1.Pod{n.pod("b"), p}); !apierrors.IsBadRequest(err) {
		n.Errorf("start of a pod without a UID: %v, want BadRequest", err)
	}
	if l := n.list(); len(l) != 0 {
		n.Errorf("a start that is refused started %+v", l)
	}
}

func listsInOrder(n *node) {
	other := n.pod("a")
	other.Namespace, other.UID = "aaa", "uid-other"
	n.start(n.pod("c"), n.pod("b"), other)
	var got []string
	for _, s := range n.list() {
		got = append(got, s.Namespace+"/"+s.Name)
	}
	if want := "aaa/a seam/b seam/c"; strings.Join(got, " ") != want {
		n.Errorf("list %v, want %s", got, want)
	}
}

func observes(n *node) {
	n.start(n.pod("a"))
	ctx, cancel := context.WithCancel(n.ctx())
	ch, err := n.a.Observe(ctx)
	if err != nil {
		n.Fatalf("observe: %v", err)
	}
	if s := <-ch; s.Name != "a" || !isReady(s) {
		n.Errorf("first state %+v, want the pod that is there", s)
	}
	n.start(n.pod("b"))
	if s := <-ch; s.Name != "b" || s.Gone {
		n.Errorf("next state %+v, want the new pod's", s)
	}
	cancel()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-deadline:
			n.Fatal("the stream does not end with its context")
		}
	}
}

func unknownPods(n *node) {
	if err := n.a.Stop(n.ctx(), "nobody", time.Second); err != nil {
		n.Errorf("stop: %v, want none", err)
	}
	if _, err := n.a.Logs(n.ctx(), "nobody", api.LogOptions{Tail: -1}); !apierrors.IsNotFound(err) {
		n.Errorf("logs: %v, want NotFound", err)
	}
	if err := n.a.Attach(n.ctx(), "nobody", api.AttachOptions{}); !apierrors.IsNotFound(err) {
		n.Errorf("attach: %v, want NotFound", err)
	}
	if _, err := n.a.Forward(n.ctx(), "nobody", 80); !apierrors.IsNotFound(err) {
		n.Errorf("forward: %v, want NotFound", err)
	}
	if _, err := n.a.Exec(n.ctx(), "nobody", api.ExecOptions{Command: []string{"true"}}); !apierrors.IsNotFound(err) {
		n.Errorf("exec: %v, want NotFound", err)
	}
}

func (n *node) read(o api.LogOptions) string {
	n.Helper()
	rc, err := n.a.Logs(n.ctx(), "uid-a", o)
	if err != nil {
		n.Fatalf("logs %+v: %v", o, err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		n.Fatalf("read logs %+v: %v", o, err)
	}
	return string(b)
}

func logs(n *node) {
	n.start(n.pod("a"))
	text := n.read(api.LogOptions{Tail: -1})
	if !strings.HasSuffix(text, "\n") || strings.Count(text, "\n") != 1 {
		n.Errorf("log %q, want one line", text)
	}
	if got := n.read(api.LogOptions{Tail: -1, Container: "main"}); got != text {
		n.Errorf("log of the first container by name %q, want %q", got, text)
	}
	if got := n.read(api.LogOptions{}); got != "" {
		n.Errorf("last 0 lines: %q", got)
	}
	if got := n.read(api.LogOptions{Tail: -1, Since: time.Now().Add(time.Hour)}); got != "" {
		n.Errorf("lines of the future: %q", got)
	}
	stamped := n.read(api.LogOptions{Tail: 1, Timestamps: true})
	at, rest, _ := strings.Cut(stamped, " ")
	if _, err := time.Parse(time.RFC3339Nano, at); err != nil || rest != text {
		n.Errorf("with time stamps: %q", stamped)
	}
	if _, err := n.a.Logs(n.ctx(), "uid-a", api.LogOptions{Container: "none"}); !apierrors.IsBadRequest(err) {
		n.Errorf("log of a container that is not there: %v, want BadRequest", err)
	}
	if _, err := n.a.Logs(n.ctx(), "uid-a", api.LogOptions{Previous: true}); !apierrors.IsBadRequest(err) {
		n.Errorf("log of an instance that is not there: %v, want BadRequest", err)
	}
}

func followsLogs(n *node) {
	n.start(n.pod("a"))
	rc, err := n.a.Logs(n.ctx(), "uid-a", api.LogOptions{Tail: -1, Follow: true})
	if err != nil {
		n.Fatalf("logs: %v", err)
	}
	defer rc.Close()
	b := make([]byte, 4096)
	m, err := rc.Read(b)
	if err != nil || !bytes.HasSuffix(b[:m], []byte("\n")) {
		n.Fatalf("read %q, %v", b[:m], err)
	}
	if err := n.a.Stop(n.ctx(), "uid-a", time.Second); err != nil {
		n.Fatalf("stop: %v", err)
	}
	if rest, err := io.ReadAll(rc); err != nil {
		n.Errorf("following has to end with the pod: %q, %v", rest, err)
	}
	ctx, cancel := context.WithCancel(n.ctx())
	n.start(n.pod("b"))
	rc, err = n.a.Logs(ctx, "uid-b", api.LogOptions{Tail: 0, Follow: true})
	if err != nil {
		n.Fatalf("logs: %v", err)
	}
	cancel()
	if _, err := rc.Read(b); err == nil {
		n.Error("following goes on after its context")
	}
	if err := rc.Close(); err != nil {
		n.Errorf("close: %v", err)
	}
}

func executes(n *node) {
	n.start(n.pod("a"))
	var out bytes.Buffer
	code, err := n.a.Exec(n.ctx(), "uid-a", api.ExecOptions{Container: "second", Command: []string{"true"}, Stdout: &out})
	if code != 0 || err != nil {
		n.Errorf("exec: %d, %v", code, err)
	}
	if _, err := n.a.Exec(n.ctx(), "uid-a", api.ExecOptions{Container: "none", Command: []string{"true"}}); !apierrors.IsBadRequest(err) {
		n.Errorf("exec in a container that is not there: %v, want BadRequest", err)
	}
}

// attaches checks how an attachment ends: with the pod, and with its context.
func attaches(n *node) {
	n.start(n.pod("a"))
	if err := n.a.Attach(n.ctx(), "uid-a", api.AttachOptions{Container: "none"}); !apierrors.IsBadRequest(err) {
		n.Errorf("attach to a container that is not there: %v, want BadRequest", err)
	}
	ctx, cancel := context.WithCancelCause(n.ctx())
	enough := errors.New("enough")
	cancel(enough)
	if err := n.a.Attach(ctx, "uid-a", api.AttachOptions{}); err == nil {
		n.Error("attaching goes on after its context")
	}
	done := make(chan error, 1)
	go func() {
		done <- n.a.Attach(n.ctx(), "uid-a", api.AttachOptions{Container: "second", Stdout: io.Discard})
	}()
	if err := n.a.Stop(n.ctx(), "uid-a", time.Second); err != nil {
		n.Fatalf("stop: %v", err)
	}
	// It may not have begun when the pod ended.
	if err := <-done; err != nil && !apierrors.IsNotFound(err) && !apierrors.IsBadRequest(err) {
		n.Errorf("attached until the pod's end: %v", err)
	}
}

func stats(n *node) {
	n.start(n.pod("a"))
	s, err := n.a.Stats(n.ctx())
	if err != nil {
		n.Fatalf("stats: %v", err)
	}
	if s.Time.IsZero() || len(s.Pods) != 1 || s.Pods[0].Name != "a" || len(s.Pods[0].Containers) != 2 {
		n.Fatalf("stats %+v", s)
	}
	for _, c := range s.Pods[0].Containers {
		if c.Name == "" || c.Memory == 0 {
			n.Errorf("stats of a container %+v", c)
		}
	}
}
