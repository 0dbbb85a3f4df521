package nodeagent

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/nodeagent/pod"
)

// Start implements api.Agent.
func (a *Agent) Start(ctx context.Context, pods []*corev1.Pod) error {
	if err := a.ready(ctx); err != nil {
		return err
	}
	for _, p := range pods {
		if p.UID == "" {
			return apierrors.NewBadRequest(fmt.Sprintf("pod %s/%s has no UID", p.Namespace, p.Name))
		}
	}
	for _, p := range pods {
		if a.worker(p.UID) == nil && !rules.IsMirror(p) {
			a.accept(p) //nolint:contextcheck // as in Run
		}
	}
	return nil
}

// ready waits until the agent knows what its engine has.
func (a *Agent) ready(ctx context.Context) error {
	select {
	case <-a.adopted:
	case <-a.over:
	case <-ctx.Done():
		return apierrors.NewServiceUnavailable("the node agent is not ready: " + context.Cause(ctx).Error())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.over:
		return apierrors.NewServiceUnavailable("the node agent has ended")
	default:
	}
	if a.stopping {
		return apierrors.NewServiceUnavailable("the node agent stops its pods")
	}
	return nil
}

// Stop implements api.Agent.
func (a *Agent) Stop(ctx context.Context, uid types.UID, grace time.Duration) error {
	if err := a.ready(ctx); err != nil {
		return err
	}
	if w := a.worker(uid); w != nil {
		w.Stop(pod.Evict, max(grace, 0))
	}
	return nil
}

// SetFrozen implements api.Agent.
func (a *Agent) SetFrozen(ctx context.Context, uid types.UID, round uint64, frozen bool) error {
	if err := a.ready(ctx); err != nil {
		return err
	}
	w, err := a.find(uid)
	switch {
	case err != nil:
		return err
	case frozen:
		return w.Freeze(ctx, round)
	}
	return w.Thaw(ctx, round)
}

// List implements api.Agent; ordered by namespace and name.
func (a *Agent) List(context.Context) ([]api.PodState, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]api.PodState, 0, len(a.workers))
	for uid, w := range a.workers {
		if _, static := a.static.named[uid]; !static { // those the API does not know
			out = append(out, stateOf(w.Pod(), false))
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Namespace != out[j].Namespace {
			return out[i].Namespace < out[j].Namespace
		}
		return out[i].Name < out[j].Name
	})
	return out, nil
}

// Observe implements api.Agent.
func (a *Agent) Observe(ctx context.Context) (<-chan api.PodState, error) {
	return a.hub.observe(ctx), nil
}

// Exec implements api.Agent.
func (a *Agent) Exec(ctx context.Context, uid types.UID, o api.ExecOptions) (int, error) {
	w, err := a.find(uid)
	if err != nil {
		return 0, err
	}
	return w.Exec(ctx, o)
}

// Attach implements api.Agent.
func (a *Agent) Attach(ctx context.Context, uid types.UID, o api.AttachOptions) error {
	w, err := a.find(uid)
	if err != nil {
		return err
	}
	return w.Attach(ctx, o)
}

// Forward implements api.Agent.
func (a *Agent) Forward(ctx context.Context, uid types.UID, port uint16) (api.Conn, error) {
	w, err := a.find(uid)
	if err != nil {
		return nil, err
	}
	return w.Forward(ctx, port)
}

// Stats implements api.Agent. Containers whose use can't be read are left out.
func (a *Agent) Stats(ctx context.Context) (api.NodeStats, error) {
	a.mu.Lock()
	pods := make([]*corev1.Pod, 0, len(a.workers))
	for _, w := range a.workers {
		pods = append(pods, w.Pod())
	}
	a.mu.Unlock()
	out := api.NodeStats{Time: time.Now()}
	out.CPUSeconds, out.Memory = machineUse()
	for _, p := range pods {
		out.Pods = append(out.Pods, a.use(ctx, p))
	}
	sort.Slice(out.Pods, func(i, j int) bool { return out.Pods[i].UID < out.Pods[j].UID })
	return out, nil
}

func (a *Agent) use(ctx context.Context, p *corev1.Pod) api.PodStats {
	ps := api.PodStats{UID: a.mirrorOf(p), Namespace: p.Namespace, Name: p.Name}
	if a.c.Stats == nil {
		return ps
	}
	for _, cs := range p.Status.ContainerStatuses {
		if cs.State.Running == nil {
			continue
		}
		cpu, memory, err := a.c.Stats.Stats(ctx, strings.TrimPrefix(cs.ContainerID, "containerd://"))
		if err != nil {
			continue // it has ended meanwhile
		}
		ps.Containers = append(ps.Containers, api.ContainerStats{Name: cs.Name, CPUSeconds: cpu, Memory: memory})
	}
	return ps
}

func (a *Agent) find(uid types.UID) (*pod.Worker, error) {
	if w := a.worker(uid); w != nil {
		return w, nil
	}
	if w := a.worker(a.ofMirror(uid)); w != nil {
		return w, nil
	}
	return nil, apierrors.NewNotFound(api.Pods.GR(), string(uid))
}

func stateOf(p *corev1.Pod, gone bool) api.PodState {
	return api.PodState{UID: p.UID, Namespace: p.Namespace, Name: p.Name, Status: p.Status, Gone: gone}
}
