package clients

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/history"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/workqueue"
)

const finalizer = "example.com/facts"

// facts is a controller as people write them: it keeps a ConfigMap of facts for each
// Deployment, which it owns, and a note of those that are gone.
type facts struct {
	client      kubernetes.Interface
	deployments appslisters.DeploymentLister
	maps        corelisters.ConfigMapLister
	queue       workqueue.TypedRateLimitingInterface[string]

	mu   sync.Mutex
	gone []string
}

func startFacts(t *testing.T, client kubernetes.Interface) *facts {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(history.Namespace))
	deployments, maps := factory.Apps().V1().Deployments(), factory.Core().V1().ConfigMaps()
	c := &facts{
		client: client, deployments: deployments.Lister(), maps: maps.Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](5*time.Millisecond, time.Second)),
	}
	on := func(name func(metav1.Object) string) cache.ResourceEventHandler {
		add := func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if n := name(obj.(metav1.Object)); n != "" {
				c.queue.Add(n)
			}
		}
		return cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }, DeleteFunc: add}
	}
	owner := func(o metav1.Object) string {
		if ref := metav1.GetControllerOf(o); ref != nil && ref.Kind == "Deployment" {
			return ref.Name
		}
		return ""
	}
	_, err1 := deployments.Informer().AddEventHandler(on(metav1.Object.GetName))
	_, err2 := maps.Informer().AddEventHandler(on(owner))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				name, end := c.queue.Get()
				if end {
					return
				}
				if err := c.reconcile(ctx, name); err != nil {
					c.queue.AddRateLimited(name)
				} else {
					c.queue.Forget(name)
				}
				c.queue.Done(name)
			}
		})
	}
	t.Cleanup(func() { cancel(); c.queue.ShutDown(); wg.Wait(); factory.Shutdown() })
	return c
}

func (c *facts) reconcile(ctx context.Context, name string) error {
	found, err := c.deployments.Deployments(history.Namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	d, all := found.DeepCopy(), c.client.AppsV1().Deployments(history.Namespace)
	has := slices.Contains(d.Finalizers, finalizer)
	switch {
	case d.DeletionTimestamp != nil && has:
		c.mu.Lock()
		c.gone = append(c.gone, name)
		c.mu.Unlock()
		d.Finalizers = slices.DeleteFunc(d.Finalizers, func(f string) bool { return f == finalizer })
		_, err := all.Update(ctx, d, metav1.UpdateOptions{})
		return err
	case d.DeletionTimestamp != nil:
		return nil
	case !has:
		d.Finalizers = append(d.Finalizers, finalizer)
		if d, err = all.Update(ctx, d, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return c.write(ctx, d)
}

// write makes the ConfigMap what it should be.
func (c *facts) write(ctx context.Context, d *appsv1.Deployment) error {
	want := map[string]string{"replicas": strconv.Itoa(int(*d.Spec.Replicas))}
	maps := c.client.CoreV1().ConfigMaps(history.Namespace)
	is, err := c.maps.ConfigMaps(history.Namespace).Get(d.Name)
	if apierrors.IsNotFound(err) {
		_, err := maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: d.Name, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}},
			Data:       want,
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil || is.Data["replicas"] == want["replicas"] {
		return err
	}
	next := is.DeepCopy()
	next.Data = want
	_, err = maps.Update(ctx, next, metav1.UpdateOptions{})
	return err
}

func client(t *testing.T, s *server) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(s.config())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A controller does its work while the server goes and comes.
func TestController(t *testing.T) {
	s := newServer(t)
	namespace(t, s)
	c := startFacts(t, client(t, s))
	user := client(t, s)
	deployments, maps := user.AppsV1().Deployments(history.Namespace), user.CoreV1().ConfigMaps(history.Namespace)
	is := func(name, replicas string) func() error {
		return func() error {
			m, err := maps.Get(t.Context(), name, metav1.GetOptions{})
			if err == nil && (m.Data["replicas"] != replicas || !metav1.IsControlledBy(m, &metav1.ObjectMeta{UID: m.OwnerReferences[0].UID})) {
				err = fmt.Errorf("%s has the facts %v, want %s", name, m.Data, replicas)
			}
			return err
		}
	}
	const n = 5
	for i := range n {
		labels := map[string]string{"app": "x"}
		if _, err := deployments.Create(t.Context(), &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("d", i)},
			Spec: appsv1.DeploymentSpec{Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		eventually(t, is(fmt.Sprint("d", i), "1"))
	}
	// What changes while nobody watches is found.
	if err := maps.Delete(t.Context(), "d0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	scale, err := deployments.GetScale(t.Context(), "d1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale.Spec.Replicas = 4
	if _, err := deployments.UpdateScale(t.Context(), "d1", scale, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s.start()
	eventually(t, is("d0", "1"))
	eventually(t, is("d1", "4"))
	// Nothing goes before the controller has noted it.
	if err := deployments.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		l, err := deployments.List(t.Context(), metav1.ListOptions{})
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("%d Deployments are there still", len(l.Items))
		}
		return err
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.gone)
	if got := slices.Compact(c.gone); len(got) != n {
		t.Errorf("noted are %v, want %d", got, n)
	}
}

// Of two that want to lead one does, over a restart of the server; the other when it
// lets go; and never both.
func TestLeaderElection(t *testing.T) {
	s := newServer(t)
	namespace(t, s)
	var mu sync.Mutex
	leading, turns := map[string]bool{}, make(chan string, 10)
	candidate := func(name string) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		e, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta: metav1.ObjectMeta{Namespace: history.Namespace, Name: "lead"}, Client: client(t, s).CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: name},
			},
			LeaseDuration: 8 * time.Second, RenewDeadline: 6 * time.Second, RetryPeriod: 200 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) {
					mu.Lock()
					defer mu.Unlock()
					if leading[name] = true; len(leading) > 1 {
						t.Errorf("%v lead", leading)
					}
					turns <- name
				},
				OnStoppedLeading: func() {
					mu.Lock()
					defer mu.Unlock()
					delete(leading, name)
				},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); e.Run(ctx) }()
		return func() { cancel(); <-done }
	}
	stopA := candidate("a")
	if got := <-turns; got != "a" {
		t.Fatalf("%s leads", got)
	}
	stopB := candidate("b")
	defer stopB()
	s.stop()
	s.start()
	lease := func() string {
		l, err := client(t, s).CoordinationV1().Leases(history.Namespace).Get(t.Context(), "lead", metav1.GetOptions{})
		if err != nil || l.Spec.HolderIdentity == nil {
			return fmt.Sprint(err)
		}
		return *l.Spec.HolderIdentity
	}
	if got := lease(); got != "a" {
		t.Errorf("after the restart the lease is %s's, want a's", got)
	}
	stopA()
	select {
	case got := <-turns:
		if got != "b" || lease() != "b" {
			t.Errorf("%s leads, the lease is %s's", got, lease())
		}
	case <-time.After(time.Minute):
		t.Error("nobody leads after the first has let go")
	}
}
