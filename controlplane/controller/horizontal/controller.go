// Package horizontal carries out what HorizontalPodAutoscalers decide.
package horizontal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/horizontal"
	"github.com/podsnap/podsnap/controlplane/meter"
	"github.com/podsnap/podsnap/controlplane/scale"
	"github.com/podsnap/podsnap/controlplane/view"
	"github.com/podsnap/podsnap/internal/loop"
	"github.com/podsnap/podsnap/internal/record"
	"github.com/prometheus/client_golang/prometheus"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// every is the time between two decisions.
const every = 15 * time.Second

// Config says what the controller works with. Objects, View, Use and Record have
// to be set.
type Config struct {
	Objects api.Objects
	View    *view.View
	// Use answers with what nodes and their pods use; see meter.Meter.Read.
	Use     func(ctx context.Context, nodes ...string) map[string]meter.Node
	Record  *record.Recorder
	Log     *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Controller is the loop.
type Controller struct {
	c    Config
	loop *loop.Loop[types.NamespacedName]

	mu     sync.Mutex
	past   map[types.UID]*horizontal.History
	decide map[types.UID]time.Time // when each decided last
}

// New makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func New(c Config) *Controller {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{c: c, past: map[types.UID]*horizontal.History{}, decide: map[types.UID]time.Time{}}
	r.loop = loop.New(loop.Config{Name: "horizontal", Workers: 8, Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.HorizontalPodAutoscalers.OnChange(func(t api.EventType, old, now *autoscalingv2.HorizontalPodAutoscaler) {
		if t == api.Deleted || old != nil && old.UID != now.UID {
			r.mu.Lock()
			delete(r.past, old.UID)
			delete(r.decide, old.UID)
			r.mu.Unlock()
		}
		if t != api.Deleted && !view.StatusOnly(old, now) {
			r.loop.Add(view.Key(now))
		}
	})
	return r
}

// Run decides until ctx is done and returns nil then.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) history(uid types.UID) *horizontal.History {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.past[uid]
	if h == nil {
		h = &horizontal.History{}
		r.past[uid] = h
	}
	return h
}

func (r *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	a, ok := r.c.View.HorizontalPodAutoscalers.Get(key.Namespace, key.Name)
	if !ok || a.DeletionTimestamp != nil {
		return 0, nil
	}
	if wait := r.due(a.UID, time.Now()); wait > 0 {
		return wait, nil
	}
	st, err := r.scale(ctx, a)
	return every, errors.Join(err, r.store(ctx, a, st))
}

// due notes a decision, or answers with how long it is until one is due. A change
// of the autoscaler is due at once, but once a second.
func (r *Controller) due(uid types.UID, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if left := time.Second - now.Sub(r.decide[uid]); left > 0 {
		return left
	}
	r.decide[uid] = now
	return 0
}

// scale decides, and brings the target to what was decided.
func (r *Controller) scale(ctx context.Context, a *autoscalingv2.HorizontalPodAutoscaler) (autoscalingv2.HorizontalPodAutoscalerStatus, error) {
	now := time.Now()
	st := *a.Status.DeepCopy()
	target, err := r.target(ctx, a)
	if err != nil {
		reason := "FailedGetScale"
		horizontal.SetCondition(&st, now, autoscalingv2.AbleToScale, false, reason, "the HPA controller was unable to get the target's current scale: "+err.Error())
		r.c.Record.Event(a, corev1.EventTypeWarning, reason, err.Error())
		return st, nil
	}
	horizontal.SetCondition(&st, now, autoscalingv2.AbleToScale, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	known := a.DeepCopy()
	known.Status = st
	spec, _, selector := scale.Of(target)
	in := horizontal.Input{Autoscaler: known, Replicas: replicas(*spec), Now: now}
	if in.Pods, err = r.pods(target.GetNamespace(), selector); err != nil {
		return st, err
	}
	in.Use = r.use(ctx, in.Pods)
	h := r.history(a.UID)
	d := horizontal.Decide(in, h)
	if d.Fault != nil {
		r.c.Record.Event(a, corev1.EventTypeWarning, d.Fault.Reason, d.Fault.Message)
	}
	if !d.Rescale {
		return d.Status, nil
	}
	if err := r.write(ctx, a, target, in.Replicas, d.Replicas); err != nil {
		horizontal.SetCondition(&d.Status, now, autoscalingv2.AbleToScale, false, "FailedUpdateScale", "the HPA controller was unable to update the target scale: "+err.Error())
		r.c.Record.Eventf(a, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", d.Replicas, d.Reason, err)
		return d.Status, err
	}
	h.Changed(in.Replicas, d.Replicas, now)
	d.Status.LastScaleTime = stamp(now)
	horizontal.SetCondition(&d.Status, now, autoscalingv2.AbleToScale, true, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", d.Replicas))
	r.c.Record.Eventf(a, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", d.Replicas, d.Reason)
	r.c.Log.Info("scaled", slog.String("autoscaler", view.Key(a).String()), slog.Int("from", int(in.Replicas)), slog.Int("to", int(d.Replicas)), slog.String("reason", d.Reason))
	return d.Status, nil
}

// target finds what an autoscaler scales.
func (r *Controller) target(ctx context.Context, a *autoscalingv2.HorizontalPodAutoscaler) (api.Object, error) {
	ref := a.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, fmt.Errorf("scaleTargetRef.apiVersion: %w", err)
	}
	res := api.ResourceForKind(gv.WithKind(ref.Kind))
	if res == nil || !res.Scale || !res.Namespaced {
		return nil, fmt.Errorf("%s of %s has no replicas that could be scaled", ref.Kind, gv)
	}
	o, err := r.c.Objects.Get(ctx, res, a.Namespace, ref.Name)
	if err != nil {
		return nil, err
	}
	if f := o.GetLabels()[api.LabelFunction]; f != "" {
		return nil, fmt.Errorf("%s %s is the function %s, which scales itself: see its labels com.openfaas.scale", ref.Kind, ref.Name, f)
	}
	for _, other := range r.c.View.Kind(api.HorizontalPodAutoscalers).By(view.Namespace, a.Namespace) {
		o := other.(*autoscalingv2.HorizontalPodAutoscaler)
		if o.UID != a.UID && o.Spec.ScaleTargetRef.Kind == ref.Kind && o.Spec.ScaleTargetRef.Name == ref.Name && older(o, a) {
			return nil, fmt.Errorf("%s %s is scaled by the autoscaler %s already", ref.Kind, ref.Name, o.Name)
		}
	}
	return o, nil
}

// older tells which of two autoscalers was there first.
func older(a, b *autoscalingv2.HorizontalPodAutoscaler) bool {
	if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.Name < b.Name
	}
	return a.CreationTimestamp.Before(&b.CreationTimestamp)
}

func (r *Controller) pods(namespace, selector string) ([]*corev1.Pod, error) {
	sel, err := labels.Parse(selector)
	if err != nil || sel.Empty() {
		return nil, fmt.Errorf("the target's selector %q selects no pods", selector)
	}
	var out []*corev1.Pod
	for _, o := range r.c.View.Kind(api.Pods).By(view.Namespace, namespace) {
		if p := o.(*corev1.Pod); sel.Matches(labels.Set(p.Labels)) {
			out = append(out, p)
		}
	}
	return out, nil
}

// use asks the nodes of pods what those use.
func (r *Controller) use(ctx context.Context, pods []*corev1.Pod) map[types.UID]horizontal.Sample {
	nodes := map[string]bool{}
	for _, p := range pods {
		if p.Spec.NodeName != "" && p.Status.Phase == corev1.PodRunning {
			nodes[p.Spec.NodeName] = true
		}
	}
	read := r.c.Use(ctx, slices.Sorted(maps.Keys(nodes))...)
	out := make(map[types.UID]horizontal.Sample, len(pods))
	for _, p := range pods {
		n := read[p.Spec.NodeName]
		u, ok := n.Pods[p.UID]
		if !ok {
			continue
		}
		s := horizontal.Sample{Time: n.Time, Window: n.Window, Containers: make(map[string]horizontal.Use, len(u.Containers))}
		for name, c := range u.Containers {
			s.Containers[name] = horizontal.Use(c)
		}
		out[p.UID] = s
	}
	return out
}

// write changes the number of replicas, if it is what was judged still.
func (r *Controller) write(ctx context.Context, a *autoscalingv2.HorizontalPodAutoscaler, target api.Object, from, to int32) error {
	_, err := api.Mutate(ctx, r.c.Objects, api.ResourceOf(target), a.Namespace, target.GetName(), api.UpdateOptions{}, func(o api.Object) (bool, error) {
		spec, _, _ := scale.Of(o)
		if o.GetUID() != target.GetUID() || replicas(*spec) != from {
			return false, apierrors.NewConflict(api.ResourceOf(o).GR(), o.GetName(), errors.New("somebody else has scaled it"))
		}
		*spec = &to
		return true, nil
	})
	return err
}

func (r *Controller) store(ctx context.Context, a *autoscalingv2.HorizontalPodAutoscaler, st autoscalingv2.HorizontalPodAutoscalerStatus) error {
	if equality.Semantic.DeepEqual(a.Status, st) {
		return nil
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.HorizontalPodAutoscalers, a.Namespace, a.Name, api.UpdateOptions{Subresource: "status"}, func(o *autoscalingv2.HorizontalPodAutoscaler) (bool, error) {
		if o.UID != a.UID {
			return false, nil
		}
		o.Status = st
		return true, nil
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the status of HorizontalPodAutoscaler %s: %w", view.Key(a), err)
	}
	return nil
}

// replicas is a number of them that may be left open.
func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

func stamp(t time.Time) *metav1.Time { return &metav1.Time{Time: t.Truncate(time.Second)} }
