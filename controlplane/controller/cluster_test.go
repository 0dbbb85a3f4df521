package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/custom"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/scheduler"
	"github.com/podsnap/podsnap/internal/mirror"
	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a control plane over memory with nodes that only pretend.
type cluster struct {
	t   *testing.T
	ctx context.Context
	api.Objects
	store *faulty
	kinds *custom.Kinds
	wg    sync.WaitGroup
}

// start runs f on a cluster in a synctest bubble, where time costs nothing.
func start(t *testing.T, c controller.Config, f func(c *cluster)) {
	t.Helper()
	startLate(t, c, late{}, f)
}

// startLate is start with mirrors of which some are behind the others.
func startLate(t *testing.T, c controller.Config, l late, f func(c *cluster)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c.Kinds = &custom.Kinds{}
		store := &faulty{Objects: memory.New(memory.Config{Namespaces: true, Admit: admission.Admit, Define: c.Kinds.Define})}
		cl := &cluster{t: t, ctx: ctx, Objects: store, store: store, kinds: c.Kinds}
		defer cl.wg.Wait()
		defer cancel()
		c.Objects = behind{store, l.controllers}
		cl.run(controller.New(c).Run)
		cl.run(scheduler.New(scheduler.Config{Objects: behind{store, l.scheduler}}).Run)
		cl.eventually("namespaces", func() error {
			_, err := cl.Get(ctx, api.Namespaces, "", api.FunctionNamespace)
			return err
		})
		f(cl)
	})
}

func (c *cluster) run(f func(context.Context) error) {
	c.wg.Go(func() {
		if err := f(c.ctx); err != nil {
			c.t.Error(err)
		}
	})
}

// eventually waits, in the bubble's time, at most two minutes.
func (c *cluster) eventually(what string, f func() error) time.Duration {
	c.t.Helper()
	begin := time.Now()
	for {
		synctest.Wait()
		err := f()
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > 2*time.Minute {
			c.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// pass lets the bubble's time go by.
func (c *cluster) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (c *cluster) pods(namespace string) []*corev1.Pod {
	c.t.Helper()
	ps, err := api.Items[*corev1.Pod](c.ctx, c, api.Pods, api.ListOptions{Namespace: namespace})
	if err != nil {
		c.t.Fatal(err)
	}
	return ps
}

// ready counts pods that serve an image.
func (c *cluster) ready(image string) (n int) {
	for _, p := range c.pods("default") {
		if podstate.Active(p) && podstate.Ready(p) && p.Spec.Containers[0].Image == image {
			n++
		}
	}
	return n
}

// faulty is a store that can stop taking writes.
type faulty struct {
	api.Objects
	down    atomic.Bool
	noPods  atomic.Bool      // pods cannot be created
	creates atomic.Int64     // pods that were created
	before  func(api.Object) // is called before each update; nil is nothing
}

var errDown = errors.New("the store is down")

func (f *faulty) Create(ctx context.Context, o api.Object) (api.Object, error) {
	_, pod := o.(*corev1.Pod)
	if f.down.Load() || pod && f.noPods.Load() {
		return nil, errDown
	}
	got, err := f.Objects.Create(ctx, o)
	if pod && err == nil {
		f.creates.Add(1)
	}
	return got, err
}

func (f *faulty) Update(ctx context.Context, o api.Object, u api.UpdateOptions) (api.Object, error) {
	if f.down.Load() {
		return nil, errDown
	}
	if f.before != nil {
		f.before(o)
	}
	return f.Objects.Update(ctx, o, u)
}

func (f *faulty) Delete(ctx context.Context, r *api.Resource, ns, name string, o api.DeleteOptions) (api.Object, error) {
	if f.down.Load() {
		return nil, errDown
	}
	return f.Objects.Delete(ctx, r, ns, name, o)
}

// agent pretends to be a node.
type agent struct {
	c     *cluster
	name  string
	pods  *mirror.Mirror[*corev1.Pod]
	up    time.Duration // from seeing a pod to its being ready
	state func(*corev1.Pod) corev1.PodStatus
	stop  context.CancelFunc
	done  chan struct{}
	dead  atomic.Bool
}

// node registers a node of 4 cores and 8 GiB and runs its agent.
func (c *cluster) node(name string) *agent {
	c.t.Helper()
	return c.nodeWhere(name, nil)
}

// nodeWhere is node for pods that fare as state says.
func (c *cluster) nodeWhere(name string, state func(*corev1.Pod) corev1.PodStatus) *agent {
	c.t.Helper()
	a := &agent{c: c, name: name, up: 100 * time.Millisecond, state: state}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	created, err := api.Create(c.ctx, c, n)
	if err != nil {
		c.t.Fatal(err)
	}
	created = created.DeepCopy()
	created.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	created.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("200"),
	}
	if _, err := c.Update(c.ctx, created, api.UpdateOptions{Subresource: "status"}); err != nil {
		c.t.Fatal(err)
	}
	a.start()
	return a
}

func (a *agent) start() {
	a.dead.Store(false)
	ctx, cancel := context.WithCancel(a.c.ctx)
	a.stop, a.done = cancel, make(chan struct{})
	a.pods = mirror.New[*corev1.Pod](a.c, api.Pods, mirror.Options{})
	var wg sync.WaitGroup
	a.pods.OnChange(func(t api.EventType, old, now *corev1.Pod) {
		if t == api.Deleted || now.Spec.NodeName != a.name {
			return
		}
		begun := old != nil && old.Spec.NodeName != ""
		ending := now.DeletionTimestamp != nil && (old == nil || old.DeletionTimestamp == nil)
		if begun && !ending {
			return
		}
		wg.Go(func() { a.work(ctx, now, ending) })
	})
	a.c.wg.Go(func() {
		defer close(a.done)
		_ = a.pods.Run(ctx)
		wg.Wait()
	})
	a.c.wg.Go(func() { a.renew(ctx) })
}

func (a *agent) work(ctx context.Context, p *corev1.Pod, ending bool) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(a.up):
	}
	do := a.report
	if ending {
		do = a.end
	}
	for do(ctx, p) != nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (a *agent) end(ctx context.Context, p *corev1.Pod) error {
	_, err := a.c.Delete(ctx, api.Pods, p.Namespace, p.Name, api.DeleteOptions{UID: p.UID, GracePeriodSeconds: new(int64)})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (a *agent) report(ctx context.Context, p *corev1.Pod) error {
	_, err := api.Mutate(ctx, a.c, api.Pods, p.Namespace, p.Name, api.UpdateOptions{Subresource: "status"}, func(o *corev1.Pod) (bool, error) {
		if o.UID != p.UID {
			return false, nil
		}
		if a.state != nil {
			o.Status = a.state(o)
			return true, nil
		}
		o.Status.Phase, o.Status.PodIP = corev1.PodRunning, "10.0.0."+fmt.Sprint(1+len(o.Name)%200)
		o.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		return true, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// renew keeps the node's lease, once a second.
func (a *agent) renew(ctx context.Context) {
	for ctx.Err() == nil {
		now := metav1.NowMicro()
		_, err := api.Mutate(ctx, a.c, api.Leases, api.SystemNamespace, a.name, api.UpdateOptions{}, func(l *coordinationv1.Lease) (bool, error) {
			l.Spec.RenewTime = &now
			return true, nil
		})
		if apierrors.IsNotFound(err) {
			_, _ = a.c.Create(ctx, &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Namespace: api.SystemNamespace, Name: a.name}, Spec: coordinationv1.LeaseSpec{RenewTime: &now},
			})
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// die is a power cut.
func (a *agent) die() {
	a.dead.Store(true)
	a.stop()
	<-a.done
}

func deployment(name, image string, replicas int32) *appsv1.Deployment {
	l := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	d.Spec.Replicas = &replicas
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: l}
	d.Spec.Template.Labels = l
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
	return d
}

func (c *cluster) create(o api.Object) api.Object {
	c.t.Helper()
	got, err := c.Create(c.ctx, o)
	if err != nil {
		c.t.Fatal(err)
	}
	return got
}

// change edits the deployment web.
func (c *cluster) change(f func(*appsv1.Deployment)) {
	c.t.Helper()
	_, err := api.Mutate(c.ctx, c, api.Deployments, "default", "web", api.UpdateOptions{}, func(d *appsv1.Deployment) (bool, error) {
		f(d)
		return true, nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// complete says what the deployment web lacks to be done.
func (c *cluster) complete(replicas int32) func() error {
	return func() error {
		d, err := api.Get[*appsv1.Deployment](c.ctx, c, api.Deployments, "default", "web")
		if err != nil {
			return err
		}
		s := d.Status
		if s.ObservedGeneration != d.Generation || s.Replicas != replicas || s.UpdatedReplicas != replicas || s.AvailableReplicas != replicas {
			return fmt.Errorf("want %d of generation %d, status is %+v", replicas, d.Generation, s)
		}
		if n := len(c.pods("default")); n != int(replicas) {
			return fmt.Errorf("%d pods, want %d", n, replicas)
		}
		return nil
	}
}

// gone says what is left of a kind.
func (c *cluster) gone(r *api.Resource, namespace string) error {
	l, err := c.List(c.ctx, r, api.ListOptions{Namespace: namespace})
	if err != nil {
		return err
	}
	if len(l.Items) > 0 {
		return fmt.Errorf("%d %s are left, %s is one", len(l.Items), r, l.Items[0].GetName())
	}
	return nil
}

func has(conditions []metav1.Condition, t string) string {
	i := slices.IndexFunc(conditions, func(c metav1.Condition) bool { return c.Type == t })
	if i < 0 {
		return ""
	}
	return string(conditions[i].Status) + " " + conditions[i].Reason
}
