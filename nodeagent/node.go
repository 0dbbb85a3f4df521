package nodeagent

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/pause"
	"github.com/podsnap/podsnap/nodeagent/pressure"
)

// statusEvery is how often the Node's status is looked over; it is written when
// it has changed, and each heartbeatsOf at the latest: a node at some time in the
// last quarter of that, lest those that began together write together for ever.
const (
	statusEvery  = 10 * time.Second
	heartbeatsOf = time.Minute
)

// firstAgain is the longest wait after a heartbeat that failed; those that fail
// after it wait for longer, up to the usual pace. The waits differ from node to
// node: all of a cluster's at once are what kept the server from answering.
const firstAgain = 200 * time.Millisecond

// answerIn is for how many beats a heartbeat is waited for, once there was one. Within
// that a server answers, or it is none any more: one that does not lead holds a request
// for longer than a node may be silent, while another one that leads is known already.
// The first one has all the time it needs: with it come those of the whole cluster.
const answerIn = 3

// adoptWithin is how long an agent may take to learn what runs on its node until it
// says that the node is not ready. Most know at once; on a machine that is busy, such
// as during an upgrade, the pods that it has would be taken away for nothing.
const adoptWithin = 10 * time.Second

// view is what of a node is told at once when it changes.
type view struct {
	ready bool
	short bool // of memory
}

// register keeps the Node and its Lease up to date until ctx is done. Faults
// are tried again soon: a node that says nothing is taken for dead.
func (a *Agent) register(ctx context.Context) {
	wait := time.NewTimer(a.c.HeartbeatEvery)
	defer wait.Stop()
	select { // an engine that is up answers at once: begin as a node that is ready
	case <-a.adopted:
	case <-wait.C:
	case <-ctx.Done():
		return
	}
	adopted, healthy, told := a.adopted, true, view{}
	var next time.Time // when the Node's status is told again
	patience := time.Now().Add(adoptWithin)
	var memory pressure.Gauge
	stalled, known := false, false
	again := min(firstAgain, a.c.HeartbeatEvery)
	for {
		ready := isClosed(a.adopted)
		if ready {
			adopted = nil // it is no news any more
		}
		now := view{ready: ready, short: memory.Look(a.c.Memory(), stalled, time.Now())}
		stalled = false
		if now.short != told.short {
			a.log.InfoContext(ctx, "memory", slog.Bool("short", now.short))
		}
		var err error
		beat, answered := ctx, func() {}
		if known {
			beat, answered = context.WithTimeout(ctx, answerIn*a.c.HeartbeatEvery)
		}
		news := now != told || !time.Now().Before(next)
		if news && (ready || !time.Now().Before(patience)) {
			if err = a.tell(beat, now); err == nil {
				told, next = now, time.Now().Add(statusEvery)
			}
		}
		if err == nil {
			err = a.renew(beat)
		}
		answered()
		known = known || err == nil
		pace := a.c.HeartbeatEvery
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if healthy {
				a.log.WarnContext(ctx, "heartbeat", slog.Any("error", err))
			}
			next, pace = time.Time{}, again/2+rand.N(again/2)
			again = min(2*again, a.c.HeartbeatEvery)
		case !healthy:
			a.log.InfoContext(ctx, "heartbeat works again")
			fallthrough
		default:
			again = min(firstAgain, a.c.HeartbeatEvery)
		}
		healthy = err == nil
		wait.Reset(pace)
		select {
		case <-ctx.Done():
			return
		case <-adopted:
		case <-a.stalls:
			stalled = true
		case <-wait.C:
		}
	}
}

// watchStalls has a node that may be short of memory looked at at once.
func (a *Agent) watchStalls(ctx context.Context) {
	err := a.c.Stalls(ctx, func() {
		select {
		case a.stalls <- struct{}{}:
		default: // one is not seen yet
		}
	})
	if err != nil && ctx.Err() == nil {
		a.log.InfoContext(ctx, "the kernel does not tell when memory is short: it is looked at with each heartbeat", slog.Any("error", err))
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// tell writes the Node as it is, where that is news.
func (a *Agent) tell(ctx context.Context, v view) error {
	status := a.nodeStatus(ctx, v)
	n, err := api.Get[*corev1.Node](ctx, a.c.Objects, api.Nodes, "", a.c.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		n = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.c.NodeName}, Spec: corev1.NodeSpec{Taints: a.c.Taints}}
		a.describe(n)
		n.Status = status
		n, err = api.Create(ctx, a.c.Objects, n)
	case err == nil && !a.described(n):
		n, err = api.Mutate(ctx, a.c.Objects, api.Nodes, "", a.c.NodeName, api.UpdateOptions{}, func(n *corev1.Node) (bool, error) {
			a.describe(n)
			return true, nil
		})
	}
	if err != nil || !a.isNews(&n.Status, &status) {
		return err
	}
	_, err = api.Mutate(ctx, a.c.Objects, api.Nodes, "", a.c.NodeName, api.UpdateOptions{Subresource: "status"}, func(n *corev1.Node) (bool, error) {
		old := n.Status
		n.Status = *status.DeepCopy()
		n.Status.Conditions = mergeConditions(old.Conditions, n.Status.Conditions)
		n.Status.VolumesAttached, n.Status.VolumesInUse = old.VolumesAttached, old.VolumesInUse
		return a.isNews(&old, &status), nil
	})
	return err
}

// describe sets what the agent owns of a Node.
func (a *Agent) describe(n *corev1.Node) {
	n.Labels = maps.Clone(n.Labels)
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	maps.Copy(n.Labels, a.c.Labels)
	n.Labels[corev1.LabelHostname] = a.c.NodeName
	n.Labels[corev1.LabelOSStable], n.Labels[corev1.LabelArchStable] = machineOS()
	if a.c.PodCIDR != "" {
		n.Spec.PodCIDR = a.c.PodCIDR
		if len(n.Spec.PodCIDRs) == 0 || n.Spec.PodCIDRs[0] != a.c.PodCIDR || a.c.PodCIDR6 != "" {
			n.Spec.PodCIDRs = []string{a.c.PodCIDR}
		}
		if a.c.PodCIDR6 != "" {
			n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, a.c.PodCIDR6)
		}
	}
}

// described says whether describe would change nothing.
func (a *Agent) described(n *corev1.Node) bool {
	next := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: n.Labels}}
	next.Spec.PodCIDR, next.Spec.PodCIDRs = n.Spec.PodCIDR, n.Spec.PodCIDRs
	a.describe(next)
	return maps.Equal(next.Labels, n.Labels) && next.Spec.PodCIDR == n.Spec.PodCIDR && slices.Equal(next.Spec.PodCIDRs, n.Spec.PodCIDRs)
}

func (a *Agent) nodeStatus(ctx context.Context, v view) corev1.NodeStatus {
	st := corev1.NodeStatus{
		Capacity: machineCapacity(a.c.StateDir, a.c.Memory().Total), NodeInfo: machineInfo(),
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: a.c.NodeIP}, {Type: corev1.NodeHostName, Address: a.c.NodeName}},
	}
	if a.c.NodeIP6 != "" {
		st.Addresses = slices.Insert(st.Addresses, 1, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.c.NodeIP6})
	}
	st.NodeInfo.KubeletVersion, st.NodeInfo.ContainerRuntimeVersion = a.c.Version, a.c.RuntimeVersion
	st.DaemonEndpoints.KubeletEndpoint.Port = a.c.Port
	st.Capacity[corev1.ResourcePods] = *resource.NewQuantity(a.c.MaxPods, resource.DecimalSI)
	maps.Copy(st.Capacity, a.c.Capacity)
	st.Allocatable = a.left(st.Capacity)
	if images, err := a.c.Images.List(ctx); err == nil {
		st.Images = images[:min(len(images), 50)]
	}
	st.Conditions = conditions(v)
	return st
}

// left is what of a capacity is for pods.
func (a *Agent) left(capacity corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range capacity {
		left := q.DeepCopy()
		left.Sub(a.c.Reserved[name])
		if left.Sign() < 0 {
			left = resource.Quantity{Format: q.Format}
		}
		out[name] = left
	}
	return out
}

// allocatable is what the node has for pods now.
func (a *Agent) allocatable() corev1.ResourceList {
	capacity := machineCapacity(a.c.StateDir, a.c.Memory().Total)
	maps.Copy(capacity, a.c.Capacity)
	return a.left(capacity)
}

func conditions(v view) []corev1.NodeCondition {
	now := metav1.NewTime(time.Now())
	cond := func(t corev1.NodeConditionType, s corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: t, Status: s, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	out := []corev1.NodeCondition{
		cond(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "the node has sufficient memory"),
		cond(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "the node has no disk pressure"),
		cond(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "the node has sufficient process ids"),
	}
	if v.short {
		out[0] = cond(corev1.NodeMemoryPressure, corev1.ConditionTrue, "KubeletHasInsufficientMemory", "the node is short of memory: idle replicas are ended")
	}
	if v.ready {
		return append(out, cond(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "the node agent is ready"))
	}
	return append(out, cond(corev1.NodeReady, corev1.ConditionFalse, "KubeletNotReady", "the container engine does not answer"))
}

// mergeConditions keeps conditions that others own, and the time of the last
// change.
func mergeConditions(old, next []corev1.NodeCondition) []corev1.NodeCondition {
	for _, o := range old {
		mine := false
		for i := range next {
			if next[i].Type == o.Type {
				mine = true
				if next[i].Status == o.Status {
					next[i].LastTransitionTime = o.LastTransitionTime
				}
			}
		}
		if !mine {
			next = append(next, o)
		}
	}
	return next
}

// isNews says whether a node's status next has to be written in the place of old.
func (a *Agent) isNews(old, next *corev1.NodeStatus) bool {
	if stale(old.Conditions, a.beat) {
		return true
	}
	if !sameResources(old.Capacity, next.Capacity) || !sameResources(old.Allocatable, next.Allocatable) {
		return true
	}
	was, is := *old, *next
	is.Capacity, is.Allocatable = old.Capacity, old.Allocatable
	is.VolumesAttached, is.VolumesInUse = old.VolumesAttached, old.VolumesInUse // not ours
	was.Conditions = quietly(old.Conditions)
	is.Conditions = quietly(mergeConditions(old.Conditions, slices.Clone(next.Conditions)))
	return !equality.Semantic.DeepEqual(&was, &is)
}

func sameResources(a, b corev1.ResourceList) bool {
	return maps.EqualFunc(a, b, func(x, y resource.Quantity) bool { return x.Cmp(y) == 0 })
}

// quietly are conditions without their times.
func quietly(conds []corev1.NodeCondition) []corev1.NodeCondition {
	out := slices.Clone(conds)
	for i := range out {
		out[i].LastHeartbeatTime, out[i].LastTransitionTime = metav1.Time{}, metav1.Time{}
	}
	return out
}

func stale(conds []corev1.NodeCondition, limit time.Duration) bool {
	for _, c := range conds {
		if c.Type == corev1.NodeReady {
			return time.Since(c.LastHeartbeatTime.Time) >= limit
		}
	}
	return true
}

// away is how long an agent that is told to end asks to be waited for: a restart on
// a busy machine takes some seconds, and what runs there runs meanwhile. It is not
// longer because a machine that is shut down looks the same.
const away = 10 * time.Second

// departWithin is how long it is tried to say so. When this machine's server has led,
// another one takes over in that time, and does not know the lease as it was written
// last.
const departWithin = 2 * time.Second

// depart says that the agent ends while the pods go on.
func (a *Agent) depart(ctx context.Context) {
	a.mu.Lock()
	stopping := a.stopping
	a.mu.Unlock()
	if stopping {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), departWithin)
	defer cancel()
	for {
		_, err := api.Mutate(ctx, a.c.Objects, api.Leases, api.SystemNamespace, a.c.NodeName, api.UpdateOptions{}, func(l *coordinationv1.Lease) (bool, error) {
			now := metav1.NewMicroTime(time.Now())
			metav1.SetMetaDataAnnotation(&l.ObjectMeta, api.AnnotationAway, away.String())
			l.Spec.RenewTime = &now
			return true, nil
		})
		if err == nil || apierrors.IsNotFound(err) {
			return
		}
		if !pause.For(ctx, firstAgain) {
			a.log.WarnContext(ctx, "nobody was told that the agent ends", slog.Any("error", err))
			return
		}
	}
}

// renew says that the node is alive. It writes upon the lease as it wrote it last:
// who renews each second need not read what nobody else writes.
func (a *Agent) renew(ctx context.Context) error {
	now := metav1.NewMicroTime(time.Now())
	seconds := int32(max(40*a.c.HeartbeatEvery/time.Second, 1))
	sign := func(l *coordinationv1.Lease) {
		l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime = &a.c.NodeName, &seconds, &now
		if _, was := l.Annotations[api.AnnotationAway]; was {
			l.Annotations = maps.Clone(l.Annotations)
			delete(l.Annotations, api.AnnotationAway)
		}
	}
	if a.lease != nil {
		next := *a.lease // what it shares with that is only read
		sign(&next)
		l, err := api.Update(ctx, a.c.Objects, &next, api.UpdateOptions{})
		a.lease = l
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	l, err := api.Mutate(ctx, a.c.Objects, api.Leases, api.SystemNamespace, a.c.NodeName, api.UpdateOptions{}, func(l *coordinationv1.Lease) (bool, error) {
		sign(l)
		return true, nil
	})
	if apierrors.IsNotFound(err) {
		l = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: api.SystemNamespace, Name: a.c.NodeName}}
		sign(l)
		l, err = api.Create(ctx, a.c.Objects, l)
	}
	if err != nil {
		l = nil
	}
	a.lease = l
	return err
}
