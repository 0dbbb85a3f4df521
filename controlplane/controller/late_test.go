package controller_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// lag is how far a mirror is behind the others in these tests: further than any of the
// short waits after which somebody looks again.
const lag = 3 * time.Second

// behind is a store whose watches of one kind are behind those of the others.
type behind struct {
	api.Objects
	late *api.Resource // nil is none
}

// Watch implements api.Objects.
func (b behind) Watch(ctx context.Context, r *api.Resource, o api.WatchOptions) (api.Watch, error) {
	w, err := b.Objects.Watch(ctx, r, o)
	if err != nil || r != b.late {
		return w, err
	}
	l := &lateWatch{Watch: w, out: make(chan api.Event)}
	go l.run(ctx)
	return l, nil
}

// lateWatch is a watch whose events come late, but for the initial ones.
type lateWatch struct {
	api.Watch
	out chan api.Event
}

func (l *lateWatch) Events() <-chan api.Event { return l.out }

func (l *lateWatch) run(ctx context.Context) {
	defer close(l.out)
	type dated struct {
		api.Event
		at time.Time
	}
	var queue []dated
	wait := time.Duration(0)
	for {
		var out chan api.Event
		var head api.Event
		var due <-chan time.Time
		if len(queue) > 0 {
			if head = queue[0].Event; time.Until(queue[0].at) <= 0 {
				out = l.out
			} else {
				due = time.After(time.Until(queue[0].at))
			}
		}
		select {
		case e, ok := <-l.Watch.Events():
			if !ok {
				return
			}
			queue = append(queue, dated{e, time.Now().Add(wait)})
			if e.InitialEventsEnd {
				wait = lag
			}
		case out <- head:
			queue = queue[1:]
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// Whatever a mirror is behind of, in the end all is as it would be otherwise, and soon:
// who does not find what he needs is woken when it comes.
func TestMirrorsInAnyOrder(t *testing.T) {
	for _, kind := range []*api.Resource{
		api.Namespaces, api.Nodes, api.ReplicaSets, api.Pods, api.StatefulSets, api.PersistentVolumes, api.PersistentVolumeClaims, api.Services, api.EndpointSlices,
	} {
		cases := map[string]late{"the controllers": {controllers: kind}}
		switch kind {
		case api.Namespaces, api.Nodes, api.Pods, api.PersistentVolumes, api.PersistentVolumeClaims:
			cases["the scheduler"] = late{scheduler: kind}
		}
		for who, l := range cases {
			t.Run(kind.Plural+" for "+who, func(t *testing.T) {
				startLate(t, controller.Config{Authority: "the authority", EvictAfter: time.Minute}, l, everything)
			})
		}
	}
}

// late is of which kind changes are seen after those of all others.
type late struct{ controllers, scheduler *api.Resource }

// says holds an object against f, which says what is wrong with it; "" is nothing.
func says[T api.Object](c *cluster, r *api.Resource, namespace, name string, f func(T) string) func() error {
	return func() error {
		o, err := api.Get[T](c.ctx, c, r, namespace, name)
		if err != nil {
			return err
		}
		if wrong := f(o); wrong != "" {
			return fmt.Errorf("%s %s: %s", r.Singular, name, wrong)
		}
		return nil
	}
}

func unless(ok bool, status any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf("%+v", status)
}

// walker is a node on which pods of Jobs succeed and the others run, with a zone and an
// address.
func (c *cluster) walker(name, address string) {
	c.nodeWhere(name, func(p *corev1.Pod) corev1.PodStatus {
		if o := metav1.GetControllerOfNoCopy(p); o != nil && o.Kind == api.Jobs.Kind {
			return succeeds(p)
		}
		st := runs(p)
		st.PodIP = fmt.Sprint("10.0.", len(p.Name), ".", 1+len(p.UID)%200)
		return st
	})
	c.mutateNode(name, func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = "zone-" + name })
	if _, err := api.Mutate(c.ctx, c, api.Nodes, "", name, api.UpdateOptions{Subresource: "status"}, func(n *corev1.Node) (bool, error) {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
		return true, nil
	}); err != nil {
		c.t.Fatal(err)
	}
}

// soon is eventually, and not by a look that is taken once a minute.
func (c *cluster) soon(what string, f func() error) {
	c.t.Helper()
	if took := c.eventually(what, f); took > 10*lag {
		c.t.Errorf("%s took %s", what, took)
	}
}

// everything is a walk through what most controllers do.
func everything(c *cluster) {
	app := func(name string) map[string]string { return map[string]string{"app": name} }
	c.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new"}})
	c.create(deployment("web", "i:1", 2))
	half := intstr.FromString("50%")
	c.create(budget(policyv1.PodDisruptionBudgetSpec{MinAvailable: &half}))
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	svc.Spec.Selector, svc.Spec.Ports = app("web"), []corev1.ServicePort{{Port: 80}}
	c.create(svc)
	balanced := svc.DeepCopy()
	balanced.Name, balanced.Spec.Type = "balanced", corev1.ServiceTypeLoadBalancer
	c.create(balanced)
	in := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	in.Spec.IngressClassName = new(api.IngressClass)
	in.Spec.DefaultBackend = &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}}
	c.create(in)
	set := statefulSet("i:1", 2)
	data := claim("data", nil)
	data.Namespace = ""
	set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{*data}
	c.create(set)
	c.create(daemonSet("i:1"))
	c.create(jobOf("job", nil))
	aggregated := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "all"}}
	aggregated.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: app("part")}}}
	c.create(aggregated)
	part := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "part", Labels: app("part")}}
	part.Rules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}
	c.create(part)
	c.walker("a", "192.0.2.1")
	c.pass(lag / 2)
	c.walker("b", "192.0.2.2")
	c.begun()
	c.ends()
}

// begun waits for all of that to work.
func (c *cluster) begun() {
	c.soon("the deployment", says(c, api.Deployments, "default", "web", func(d *appsv1.Deployment) string {
		return unless(d.Status.AvailableReplicas == 2 && d.Status.ObservedGeneration == d.Generation, d.Status)
	}))
	c.soon("the set", says(c, api.StatefulSets, "default", "db", func(s *appsv1.StatefulSet) string {
		return unless(s.Status.AvailableReplicas == 2 && s.Status.ObservedGeneration == s.Generation, s.Status)
	}))
	c.soon("the daemons", says(c, api.DaemonSets, "default", "log", func(d *appsv1.DaemonSet) string {
		return unless(d.Status.NumberReady == 2 && d.Status.DesiredNumberScheduled == 2, d.Status)
	}))
	c.soon("the job", says(c, api.Jobs, "default", "job", func(j *batchv1.Job) string {
		return unless(j.Status.Succeeded == 1 && j.Status.CompletionTime != nil, j.Status)
	}))
	c.soon("the budget", says(c, api.PodDisruptionBudgets, "default", "web", func(b *policyv1.PodDisruptionBudget) string {
		return unless(b.Status.ExpectedPods == 2 && b.Status.CurrentHealthy == 2 && b.Status.DisruptionsAllowed == 1, b.Status)
	}))
	for _, name := range []string{"web", "balanced"} {
		c.soon("the endpoints", c.zoned(name, 2))
	}
	c.soon("the balanced service", says(c, api.Services, "default", "balanced", func(s *corev1.Service) string {
		return unless(len(s.Status.LoadBalancer.Ingress) == 2, s.Status)
	}))
	c.soon("the ingress", says(c, api.Ingresses, "default", "web", func(i *networkingv1.Ingress) string {
		return unless(len(i.Status.LoadBalancer.Ingress) == 2, i.Status)
	}))
	c.soon("the role", says(c, api.ClusterRoles, "", "all", func(r *rbacv1.ClusterRole) string { return unless(len(r.Rules) == 1, r.Rules) }))
	c.soon("the account", says(c, api.ServiceAccounts, "new", api.DefaultAccount, func(*corev1.ServiceAccount) string { return "" }))
	c.soon("the authority", says(c, api.ConfigMaps, "new", api.RootCA, func(m *corev1.ConfigMap) string { return unless(len(m.Data) == 1, m.Data) }))
	for _, name := range []string{"data-db-0", "data-db-1"} {
		c.soon("claim "+name, c.boundTo(name, ""))
	}
}

// zoned says which endpoints a service lacks, in the zones of their nodes.
func (c *cluster) zoned(service string, want int) func() error {
	return func() error {
		all, err := api.Items[*discoveryv1.EndpointSlice](c.ctx, c, api.EndpointSlices, api.ListOptions{Namespace: "default"})
		if err != nil {
			return err
		}
		n := 0
		for _, s := range all {
			for _, e := range s.Endpoints {
				if s.Labels[api.LabelServiceName] == service && *e.Conditions.Ready && e.Zone != nil && *e.Zone == "zone-"+*e.NodeName {
					n++
				}
			}
		}
		if n != want {
			return fmt.Errorf("%d endpoints of %s are ready and have their zone, want %d: %+v", n, service, want, all)
		}
		return nil
	}
}

// ends takes all of it down.
func (c *cluster) ends() {
	c.drop(api.Deployments, "web")
	c.drop(api.Services, "web")
	c.drop(api.Services, "balanced")
	c.drop(api.StatefulSets, "db")
	c.drop(api.DaemonSets, "log")
	c.drop(api.Jobs, "job")
	c.drop(api.PersistentVolumeClaims, "data-db-0")
	c.drop(api.PersistentVolumeClaims, "data-db-1")
	if _, err := c.Delete(c.ctx, api.Namespaces, "", "new", api.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	for _, r := range []*api.Resource{api.Pods, api.ReplicaSets, api.Jobs, api.EndpointSlices, api.Endpoints, api.PersistentVolumeClaims, api.ControllerRevisions} {
		c.soon("the end of the "+r.Plural, func() error { return c.gone(r, "default") })
	}
	c.soon("the end of the volumes", func() error { c.clearDisks(); return c.gone(api.PersistentVolumes, "") })
	c.soon("the end of the namespace", c.vanished(api.Namespaces, "", "new"))
}

// A claim may name a volume that comes after it.
func TestClaimBeforeItsVolume(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		early := claim("early", new(""))
		early.Spec.VolumeName = "named"
		c.create(early)
		c.pass(lag)
		c.create(hostVolume("named", "", "5Gi", "a"))
		c.soon("the claim", c.boundTo("early", "named"))
	})
}

// A volume that goes while it is given away is not the last one.
func TestVolumeGoesWhileItIsGiven(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		for _, name := range []string{"one", "two"} {
			c.create(hostVolume(name, "", map[string]string{"one": "1Gi", "two": "2Gi"}[name], "a"))
			if _, err := api.Mutate(c.ctx, c, api.PersistentVolumes, "", name, api.UpdateOptions{}, func(v *corev1.PersistentVolume) (bool, error) {
				v.Finalizers = nil // people may take them out
				return true, nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		c.eventually("volumes", c.available("one", "two"))
		c.store.before = func(o api.Object) {
			if v, ok := o.(*corev1.PersistentVolume); ok && v.Name == "one" && v.Spec.ClaimRef != nil {
				_, _ = c.store.Objects.Delete(c.ctx, api.PersistentVolumes, "", "one", api.DeleteOptions{})
			}
		}
		c.create(claim("any", new("")))
		c.soon("the claim", c.boundTo("any", "two"))
	})
}

// A claim that is deleted before its pod has a node is made anew.
func TestClaimMadeAnew(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		set := statefulSet("i:1", 1)
		data := claim("data", nil)
		data.Namespace = ""
		set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{*data}
		c.create(set)
		c.eventually("the claim", says(c, api.PersistentVolumeClaims, "default", "data-db-0", func(*corev1.PersistentVolumeClaim) string { return "" }))
		c.pass(lag)
		old := c.claimOf("data-db-0").UID
		c.drop(api.PersistentVolumeClaims, "data-db-0")
		c.soon("another claim", says(c, api.PersistentVolumeClaims, "default", "data-db-0", func(p *corev1.PersistentVolumeClaim) string {
			return unless(p.UID != old, "it is the old one")
		}))
		c.node("a")
		c.soon("the pod", c.runs("db-0", "a"))
	})
}

// Endpoints have the zone of a node that is seen after its pods.
func TestZoneOfALateNode(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		svc.Spec.Selector, svc.Spec.Ports = map[string]string{"app": "web"}, []corev1.ServicePort{{Port: 80}}
		c.create(svc)
		p := user("web")
		p.Labels, p.Spec.NodeName = svc.Spec.Selector, "late"
		c.create(p)
		if _, err := api.Mutate(c.ctx, c, api.Pods, "default", "web", api.UpdateOptions{Subresource: "status"}, func(p *corev1.Pod) (bool, error) {
			p.Status = runs(p)
			p.Status.PodIP = "10.0.0.1"
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
		c.eventually("the endpoints", says(c, api.Endpoints, "default", "web", func(e *corev1.Endpoints) string { return unless(len(e.Subsets) == 1, e.Subsets) }))
		c.pass(time.Second) // nothing else has the endpoints looked at again
		c.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "late", Labels: map[string]string{corev1.LabelTopologyZone: "zone-late"}}})
		c.soon("the zone", c.zoned("web", 1))
	})
}

// A budget in percent is of the pods that there are to be, also when none of them
// changes.
func TestBudgetOfPodsThatAreToCome(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		d := deployment("web", "i:1", 2)
		c.create(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.ReplicaSetSpec{
			Replicas: d.Spec.Replicas, Selector: d.Spec.Selector, Template: d.Spec.Template,
		}})
		half := intstr.FromString("50%")
		c.create(budget(policyv1.PodDisruptionBudgetSpec{MinAvailable: &half}))
		expects := func(pods, allowed int32) func() error {
			return says(c, api.PodDisruptionBudgets, "default", "web", func(b *policyv1.PodDisruptionBudget) string {
				return unless(b.Status.ExpectedPods == pods && b.Status.CurrentHealthy == 2 && b.Status.DisruptionsAllowed == allowed, b.Status)
			})
		}
		c.eventually("two", expects(2, 1))
		c.store.noPods.Store(true)
		if _, err := api.Mutate(c.ctx, c, api.ReplicaSets, "default", "web", api.UpdateOptions{}, func(s *appsv1.ReplicaSet) (bool, error) {
			s.Spec.Replicas = new(int32(8))
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
		c.soon("eight", expects(8, 0))
	})
}
