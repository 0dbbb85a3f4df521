package memory

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Agent is an api.Agent in memory: its pods run nothing, and are ready as soon
// as they are started. A command that is executed prints itself and ends with 0.
// It starts no goroutines.
type Agent struct {
	mu   sync.Mutex
	pods map[types.UID]*agentPod
	subs map[chan api.PodState]bool
}

type agentPod struct {
	api.PodState
	containers []string
	start      time.Time
	thawed     uint64 // rounds up to this one are over
	gone       chan struct{}
}

var _ api.Agent = (*Agent)(nil)

// NewAgent makes an agent without pods.
func NewAgent() *Agent {
	return &Agent{pods: map[types.UID]*agentPod{}, subs: map[chan api.PodState]bool{}}
}

// Start implements api.Agent.
func (a *Agent) Start(_ context.Context, pods []*corev1.Pod) error {
	for _, p := range pods {
		if p.UID == "" {
			return apierrors.NewBadRequest(fmt.Sprintf("pod %s/%s has no UID", p.Namespace, p.Name))
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range pods {
		if a.pods[p.UID] != nil {
			continue
		}
		it := &agentPod{start: time.Now(), gone: make(chan struct{}), PodState: api.PodState{UID: p.UID, Namespace: p.Namespace, Name: p.Name}}
		for _, c := range p.Spec.Containers {
			it.containers = append(it.containers, c.Name)
		}
		it.Status = runningStatus(p, it.start, len(a.pods)+1)
		a.pods[p.UID] = it
		a.publish(it.PodState)
	}
	return nil
}

func runningStatus(p *corev1.Pod, now time.Time, n int) corev1.PodStatus {
	at := metav1.NewTime(now)
	st := corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &at, HostIP: "127.0.0.1", PodIP: fmt.Sprintf("10.42.%d.%d", n/250, n%250+1)}
	for _, t := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		st.Conditions = append(st.Conditions, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: at})
	}
	for _, c := range p.Spec.Containers {
		started := true
		st.ContainerStatuses = append(st.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, Started: &started, ContainerID: "memory://" + string(p.UID) + "-" + c.Name,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}},
		})
	}
	return st
}

// Stop implements api.Agent; the pod is gone at once.
func (a *Agent) Stop(_ context.Context, uid types.UID, _ time.Duration) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	it := a.pods[uid]
	if it == nil {
		return nil
	}
	delete(a.pods, uid)
	close(it.gone)
	it.Gone = true
	it.Status = *it.Status.DeepCopy() // the last one is shared
	it.Status.Phase = corev1.PodSucceeded
	a.publish(it.PodState)
	return nil
}

// List implements api.Agent.
func (a *Agent) List(context.Context) ([]api.PodState, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]api.PodState, 0, len(a.pods))
	for _, p := range a.pods {
		out = append(out, p.PodState)
	}
	slices.SortFunc(out, func(x, y api.PodState) int {
		return cmp.Or(strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Name, y.Name))
	})
	return out, nil
}

// Observe implements api.Agent.
func (a *Agent) Observe(ctx context.Context) (<-chan api.PodState, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ch := make(chan api.PodState, len(a.pods)+4096)
	for _, p := range a.pods {
		ch <- p.PodState
	}
	a.subs[ch] = true
	context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.drop(ch)
	})
	return ch, nil
}

func (a *Agent) publish(s api.PodState) {
	for ch := range a.subs {
		select {
		case ch <- s:
		default:
			a.drop(ch)
		}
	}
}

func (a *Agent) drop(ch chan api.PodState) {
	if a.subs[ch] {
		delete(a.subs, ch)
		close(ch)
	}
}

// Logs implements api.Agent: each container has said that it has started.
func (a *Agent) Logs(ctx context.Context, uid types.UID, o api.LogOptions) (io.ReadCloser, error) {
	p, name, err := a.container(uid, o.Container)
	if err != nil {
		return nil, err
	}
	if o.Previous {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", name, p.Name))
	}
	text := "started " + name + "\n"
	switch {
	case o.Tail == 0 || p.start.Before(o.Since):
		text = ""
	case o.Timestamps:
		text = p.start.UTC().Format(time.RFC3339Nano) + " " + text
	}
	r := &agentLog{text: *bytes.NewReader([]byte(text)), closed: make(chan struct{})}
	if o.Follow {
		r.wait = func() error {
			select {
			case <-p.gone:
			case <-r.closed:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			return io.EOF
		}
	}
	return r, nil
}

type agentLog struct {
	text   bytes.Reader
	wait   func() error // nil when not following
	closed chan struct{}
	once   sync.Once
}

func (l *agentLog) Read(b []byte) (int, error) {
	if l.text.Len() > 0 || l.wait == nil {
		return l.text.Read(b)
	}
	return 0, l.wait()
}

func (l *agentLog) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Exec implements api.Agent.
func (a *Agent) Exec(_ context.Context, uid types.UID, o api.ExecOptions) (int, error) {
	if _, _, err := a.container(uid, o.Container); err != nil {
		return 0, err
	}
	if o.Stdout != nil {
		fmt.Fprintln(o.Stdout, o.Command)
	}
	return 0, nil
}

// Attach implements api.Agent: a container's process writes what it reads.
func (a *Agent) Attach(ctx context.Context, uid types.UID, o api.AttachOptions) error {
	p, _, err := a.container(uid, o.Container)
	if err != nil {
		return err
	}
	if o.Stdin == nil {
		select {
		case <-p.gone:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	_, err = io.Copy(o.Stdout, o.Stdin)
	return err
}

// Forward implements api.Agent: whatever the port, what is sent comes back.
func (a *Agent) Forward(_ context.Context, uid types.UID, _ uint16) (api.Conn, error) {
	if _, _, err := a.container(uid, ""); err != nil {
		return nil, err
	}
	e := &echo{}
	e.PipeReader, e.w = io.Pipe()
	return e, nil
}

// echo is a connection to itself.
type echo struct {
	*io.PipeReader
	w *io.PipeWriter
}

func (e *echo) Write(b []byte) (int, error) { return e.w.Write(b) }

func (e *echo) CloseWrite() error { return e.w.Close() }

// SetFrozen implements api.Agent: the pod's condition is all that changes.
func (a *Agent) SetFrozen(_ context.Context, uid types.UID, round uint64, frozen bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pods[uid]
	switch {
	case p == nil:
		return apierrors.NewNotFound(api.Pods.GR(), string(uid))
	case frozen && round <= p.thawed:
		return apierrors.NewConflict(api.Pods.GR(), p.Name, fmt.Errorf("round %d was ended", round))
	case !frozen:
		p.thawed = max(p.thawed, round)
	}
	is := func(c corev1.PodCondition) bool { return c.Type == api.ConditionFrozen }
	if slices.ContainsFunc(p.Status.Conditions, is) == frozen {
		return nil
	}
	p.Status = *p.Status.DeepCopy() // the last one is shared
	p.Status.Conditions = slices.DeleteFunc(p.Status.Conditions, is)
	if frozen {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
			Type: api.ConditionFrozen, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now()),
		})
	}
	a.publish(p.PodState)
	return nil
}

// Stats implements api.Agent: a second of CPU for each second, 1 MiB.
func (a *Agent) Stats(context.Context) (api.NodeStats, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := api.NodeStats{Time: time.Now()}
	for _, p := range a.pods {
		ps := api.PodStats{UID: p.UID, Namespace: p.Namespace, Name: p.Name}
		for _, c := range p.containers {
			ps.Containers = append(ps.Containers, api.ContainerStats{Name: c, CPUSeconds: time.Since(p.start).Seconds(), Memory: 1 << 20})
		}
		out.Pods = append(out.Pods, ps)
	}
	slices.SortFunc(out.Pods, func(x, y api.PodStats) int { return strings.Compare(string(x.UID), string(y.UID)) })
	return out, nil
}

func (a *Agent) container(uid types.UID, name string) (*agentPod, string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pods[uid]
	switch {
	case p == nil:
		return nil, "", apierrors.NewNotFound(api.Pods.GR(), string(uid))
	case name == "" && len(p.containers) > 0:
		return p, p.containers[0], nil
	case !slices.Contains(p.containers, name):
		return nil, "", apierrors.NewBadRequest(fmt.Sprintf("container %q is not valid for pod %q", name, p.Name))
	}
	return p, name, nil
}
