package controller_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/functions"
	"github.com/podsnap/podsnap/internal/mirror"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestDeploymentScales(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		c.create(deployment("web", "i:1", 3))
		for _, n := range []int32{3, 50, 1, 0, 2} {
			c.change(func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
			took := c.eventually("scale", c.complete(n))
			if took > time.Second {
				t.Errorf("scaling to %d took %v", n, took)
			}
		}
		if n := c.store.creates.Load(); n != 3+47+2 {
			t.Errorf("%d pods were created for 3, 50, 1, 0, 2 replicas: want 52", n)
		}
	})
}

func TestRollingUpdateKeepsReplicas(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		c.node("b")
		d := deployment("web", "i:1", 4)
		one, none := intstr.FromInt32(1), intstr.FromInt32(0)
		d.Spec.Strategy = appsv1.DeploymentStrategy{
			Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &none},
		}
		c.create(d)
		c.eventually("first version", c.complete(4))

		least, most := 99, 0
		watch := mirror.New[*corev1.Pod](c, api.Pods, mirror.Options{})
		watch.OnChange(func(api.EventType, *corev1.Pod, *corev1.Pod) {
			ready, active := 0, 0
			for _, p := range watch.List() {
				if podstate.Active(p) {
					active++
					if podstate.Ready(p) {
						ready++
					}
				}
			}
			select {
			case <-watch.Synced():
				least, most = min(least, ready), max(most, active)
			default:
			}
		})
		c.run(watch.Run)
		synctest.Wait()
		for v := 2; v < 5; v++ {
			image := fmt.Sprintf("i:%d", v)
			c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
			c.eventually(image, func() error {
				if n := c.ready(image); n != 4 {
					return fmt.Errorf("%d pods of %s are ready", n, image)
				}
				return c.complete(4)()
			})
		}
		if least < 4 || most > 5 {
			t.Errorf("between %d ready and %d pods in all: want never fewer than 4 nor more than 5", least, most)
		}
		got, err := api.Get[*appsv1.Deployment](c.ctx, c, api.Deployments, "default", "web")
		if err != nil || got.Annotations["deployment.kubernetes.io/revision"] != "4" {
			t.Errorf("revision %q (%v), want 4", got.Annotations["deployment.kubernetes.io/revision"], err)
		}
	})
}

func TestCascade(t *testing.T) {
	for _, p := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		t.Run(string(p), func(t *testing.T) {
			start(t, controller.Config{}, func(c *cluster) {
				c.node("a").up = time.Second
				c.create(deployment("web", "i:1", 3))
				c.eventually("pods", c.complete(3))
				if _, err := c.Delete(c.ctx, api.Deployments, "default", "web", api.DeleteOptions{Propagation: p}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if _, err := c.Get(c.ctx, api.Deployments, "default", "web"); (err == nil) != (p == metav1.DeletePropagationForeground) {
					t.Errorf("deployment right after the delete: %v", err)
				}
				if p == metav1.DeletePropagationOrphan {
					time.Sleep(time.Minute)
					sets, err := api.Items[*appsv1.ReplicaSet](c.ctx, c, api.ReplicaSets, api.ListOptions{Namespace: "default"})
					if err != nil || len(sets) != 1 || len(sets[0].OwnerReferences) != 0 {
						t.Fatalf("%d sets (%v), want one without an owner", len(sets), err)
					}
					c.create(deployment("web", "i:1", 3)) // adopts it
					c.eventually("adoption", c.complete(3))
					if n := c.store.creates.Load(); n != 3 {
						t.Errorf("%d pods were created in all: want those of the orphaned set used again", n)
					}
					return
				}
				c.eventually("cascade", func() error {
					return errors.Join(c.gone(api.Pods, "default"), c.gone(api.ReplicaSets, "default"), c.gone(api.Deployments, "default"))
				})
			})
		})
	}
}

func TestNamespaceDelete(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		c.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "x"}})
		d := deployment("web", "i:1", 5)
		d.Namespace = "x"
		c.create(d)
		c.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "s"}})
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "web"}}
		svc.Spec.Selector, svc.Spec.Ports = map[string]string{"app": "web"}, []corev1.ServicePort{{Port: 80}}
		c.create(svc)
		c.eventually("pods", func() error {
			if n := len(c.pods("x")); n != 5 {
				return fmt.Errorf("%d pods", n)
			}
			return nil
		})
		if _, err := c.Delete(c.ctx, api.Namespaces, "", "x", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		took := c.eventually("end", func() error {
			if _, err := c.Get(c.ctx, api.Namespaces, "", "x"); err == nil {
				return errors.New("the namespace is there")
			} else if !apierrors.IsNotFound(err) {
				return err
			}
			return nil
		})
		if took > 3*time.Second {
			t.Errorf("took %v: the end of the last pod must wake the controller", took)
		}
		for _, r := range api.Resources {
			if r.Namespaced {
				if err := c.gone(r, "x"); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func TestEndpoints(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		d := deployment("web", "i:1", 2)
		d.Spec.Template.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
		c.create(d)
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		svc.Spec.Selector = map[string]string{"app": "web"}
		svc.Spec.Ports = []corev1.ServicePort{{Name: "main", Port: 80, TargetPort: intstr.FromString("http")}}
		c.create(svc)
		ready := func(want int) func() error {
			return func() error {
				slices, err := api.Items[*discoveryv1.EndpointSlice](c.ctx, c, api.EndpointSlices, api.ListOptions{Namespace: "default"})
				if err != nil {
					return err
				}
				n := 0
				for _, s := range slices {
					for _, e := range s.Endpoints {
						if *e.Conditions.Ready {
							n++
							if *s.Ports[0].Port != 8080 {
								t.Errorf("port %d, want the named one's 8080", *s.Ports[0].Port)
							}
						}
					}
				}
				e, err := api.Get[*corev1.Endpoints](c.ctx, c, api.Endpoints, "default", "web")
				if err != nil {
					return err
				}
				m := 0
				for _, s := range e.Subsets {
					m += len(s.Addresses)
				}
				if n != want || m != want {
					return fmt.Errorf("%d in slices, %d in Endpoints, want %d", n, m, want)
				}
				return nil
			}
		}
		for _, n := range []int32{2, 5, 0, 1} {
			c.change(func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
			c.eventually("endpoints", ready(int(n)))
		}
		if _, err := c.Delete(c.ctx, api.Services, "default", "web", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("end", func() error {
			return errors.Join(c.gone(api.EndpointSlices, "default"), c.gone(api.Endpoints, "default"))
		})
	})
}

// An Ingress says where it is reached, if it is the gateways'.
func TestIngressStatus(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		address := func(name, ip string) {
			t.Helper()
			if _, err := api.Mutate(c.ctx, c, api.Nodes, "", name, api.UpdateOptions{Subresource: "status"}, func(n *corev1.Node) (bool, error) {
				n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
				return true, nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		c.node("b")
		address("b", "192.0.2.2")
		ours := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "ours"}}
		ours.Spec.DefaultBackend = &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}}
		other, class := ours.DeepCopy(), "other"
		other.Name, other.Spec.IngressClassName = "other", &class
		c.create(ours)
		c.create(other)
		says := func(name string, want ...string) func() error {
			return func() error {
				i, err := api.Get[*networkingv1.Ingress](c.ctx, c, api.Ingresses, "default", name)
				if err != nil {
					return err
				}
				var got []string
				for _, a := range i.Status.LoadBalancer.Ingress {
					got = append(got, a.IP)
				}
				if !slices.Equal(got, want) {
					return fmt.Errorf("it is at %v, want %v", got, want)
				}
				return nil
			}
		}
		c.eventually("the one node", says("ours", "192.0.2.2"))
		c.node("a")
		address("a", "192.0.2.1")
		c.eventually("both nodes", says("ours", "192.0.2.1", "192.0.2.2"))
		if err := says("other")(); err != nil {
			t.Errorf("somebody else's: %v", err)
		}
		def, err := api.Get[*networkingv1.IngressClass](c.ctx, c, api.IngressClasses, "", api.IngressClass)
		if err != nil || def.Spec.Controller != api.IngressController {
			t.Errorf("the class is %+v, %v", def, err)
		}
		c.create(&networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Spec: networkingv1.IngressClassSpec{Controller: api.IngressController}})
		c.eventually("a class of ours", says("other", "192.0.2.1", "192.0.2.2"))
	})
}

func TestReplicationController(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		l := map[string]string{"app": "web"}
		orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "stray", Labels: l}}
		orphan.Spec.Containers = []corev1.Container{{Name: "c", Image: "i:1"}}
		c.create(orphan)
		synctest.Wait() // it is known before the controller is
		n := int32(3)
		rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		rc.Spec = corev1.ReplicationControllerSpec{Replicas: &n, Selector: l, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: orphan.Spec,
		}}
		c.create(rc)
		status := func(want int32) func() error {
			return func() error {
				got, err := api.Get[*corev1.ReplicationController](c.ctx, c, api.ReplicationControllers, "default", "web")
				if err != nil {
					return err
				}
				if s := got.Status; s.Replicas != want || s.ReadyReplicas != want || s.AvailableReplicas != want {
					return fmt.Errorf("status %+v", s)
				}
				return nil
			}
		}
		c.eventually("three", status(3))
		if n := len(c.pods("default")); n != 3 {
			t.Errorf("%d pods: want the stray one adopted and two more", n)
		}
		// One that is relabelled is let go and replaced.
		_, err := api.Mutate(c.ctx, c, api.Pods, "default", "stray", api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
			p.Labels = map[string]string{"app": "other"}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		c.eventually("replaced", func() error {
			if n := len(c.pods("default")); n != 4 {
				return fmt.Errorf("%d pods, want 3 and the one that was let go", n)
			}
			return status(3)()
		})
		p, err := api.Get[*corev1.Pod](c.ctx, c, api.Pods, "default", "stray")
		if err != nil || metav1.GetControllerOf(p) != nil {
			t.Errorf("the relabelled pod has owner %v (%v)", metav1.GetControllerOf(p), err)
		}
	})
}

func TestPodsThatFailAreReplacedWithBackoff(t *testing.T) {
	start(t, controller.Config{Ended: 3}, func(c *cluster) {
		a := c.node("a")
		a.state = func(*corev1.Pod) corev1.PodStatus { return corev1.PodStatus{Phase: corev1.PodFailed, Reason: "NoRoom"} }
		c.create(deployment("web", "i:1", 1))
		time.Sleep(2 * time.Minute)
		if n := c.store.creates.Load(); n < 4 || n > 12 {
			t.Errorf("%d pods were created in two minutes of failures: want a few", n)
		}
		if n := len(c.pods("default")); n > 4 {
			t.Errorf("%d pods are left, 3 ended ones are kept", n)
		}
	})
}

func TestStoreFaultsDontMultiplyPods(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		c.store.down.Store(true)
		time.Sleep(3 * time.Second)
		c.store.down.Store(false)
		c.create(deployment("web", "i:1", 2))
		synctest.Wait()
		c.store.down.Store(true)
		time.Sleep(10 * time.Second)
		c.store.down.Store(false)
		c.eventually("pods", c.complete(2))
		if n := c.store.creates.Load(); n != 2 {
			t.Errorf("%d pods were created, want 2", n)
		}
	})
}

func TestUnschedulable(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		d := deployment("web", "i:1", 2)
		d.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}
		c.create(d)
		c.eventually("reason", func() error {
			for _, p := range c.pods("default") {
				if cond := podstate.Condition(p, corev1.PodScheduled); cond != nil && p.Spec.NodeName == "" {
					if cond.Message != "0/1 nodes are available: 1 Insufficient cpu." {
						return errors.New(cond.Message)
					}
					return nil
				}
			}
			return errors.New("no pod says why it has no node")
		})
		c.eventually("event", func() error {
			es, err := api.Items[*corev1.Event](c.ctx, c, api.Events, api.ListOptions{Namespace: "default"})
			if err != nil {
				return err
			}
			for _, e := range es {
				if e.Reason == "FailedScheduling" && strings.Contains(e.Message, "Insufficient cpu") {
					return nil
				}
			}
			return errors.New("no FailedScheduling event")
		})
		c.node("b")
		if took := c.eventually("room", c.complete(2)); took > time.Second {
			t.Errorf("took %v after a node with room came", took)
		}
	})
}

func TestFunction(t *testing.T) {
	start(t, controller.Config{Apply: functions.Apply}, func(c *cluster) {
		a := c.node("a")
		f := &api.Function{ObjectMeta: metav1.ObjectMeta{Namespace: api.FunctionNamespace, Name: "resize"}}
		f.Spec = api.FunctionSpec{Name: "resize", Image: "resize:latest"}
		c.create(f)
		get := func() *api.Function {
			got, err := api.Get[*api.Function](c.ctx, c, api.Functions, f.Namespace, f.Name)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		want := func(replicas int32, conditions map[string]string) func() error {
			return func() error {
				got := get()
				for k, v := range conditions {
					if is := has(got.Status.Conditions, k); is != v {
						return fmt.Errorf("%s is %q, want %q", k, is, v)
					}
				}
				if got.Status.Replicas != replicas {
					return fmt.Errorf("%d replicas", got.Status.Replicas)
				}
				return nil
			}
		}
		c.eventually("ready", want(1, map[string]string{
			"Ready": "True ReplicasAvailable", "Healthy": "True AllAvailable", "Reconciling": "False Settled", "Stalled": "False NoFault",
		}))
		if _, err := c.Delete(c.ctx, api.Services, f.Namespace, f.Name, api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("repair", func() error { _, err := c.Get(c.ctx, api.Services, f.Namespace, f.Name); return err })

		a.state = func(*corev1.Pod) corev1.PodStatus {
			return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{
				Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "registry answered 404"},
			}}}}
		}
		_, err := api.Mutate(c.ctx, c, api.Functions, f.Namespace, f.Name, api.UpdateOptions{}, func(o *api.Function) (bool, error) {
			o.Spec.Image = "missing:1"
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		c.eventually("stalled", want(1, map[string]string{
			"Ready": "True ReplicasAvailable", "Stalled": "True ImagePullBackOff", "Reconciling": "True Progressing",
		}))
		if _, err := c.Delete(c.ctx, api.Functions, f.Namespace, f.Name, api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("end", func() error {
			return errors.Join(c.gone(api.Pods, f.Namespace), c.gone(api.Deployments, f.Namespace), c.gone(api.Services, f.Namespace), c.gone(api.EndpointSlices, f.Namespace))
		})
	})
}
