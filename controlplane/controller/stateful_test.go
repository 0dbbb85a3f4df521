package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/internal/mirror"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func statefulSet(image string, replicas int32) *appsv1.StatefulSet {
	l := map[string]string{"app": "db"}
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}}
	s.Spec.Replicas, s.Spec.ServiceName = &replicas, "db"
	s.Spec.Selector = &metav1.LabelSelector{MatchLabels: l}
	s.Spec.Template.Labels = l
	s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
	return s
}

// alter edits the set.
func (c *cluster) alter(f func(*appsv1.StatefulSet)) {
	c.t.Helper()
	_, err := api.Mutate(c.ctx, c, api.StatefulSets, "default", "db", api.UpdateOptions{}, func(s *appsv1.StatefulSet) (bool, error) {
		f(s)
		return true, nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// settled says what the set lacks to be done, of which pods (by name) which image is
// wanted.
func (c *cluster) settled(images map[string]string) func() error {
	return func() error {
		s, err := api.Get[*appsv1.StatefulSet](c.ctx, c, api.StatefulSets, "default", "db")
		if err != nil {
			return err
		}
		n, st := int32(len(images)), s.Status
		if st.ObservedGeneration != s.Generation || st.Replicas != n || st.ReadyReplicas != n || st.AvailableReplicas != n {
			return fmt.Errorf("want %d of generation %d, status is %+v", n, s.Generation, st)
		}
		got := map[string]string{}
		for _, p := range c.pods("default") {
			got[p.Name] = p.Spec.Containers[0].Image
			if p.DeletionTimestamp != nil {
				return fmt.Errorf("pod %s is ending", p.Name)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(images) {
			return fmt.Errorf("the pods are %v, want %v", got, images)
		}
		return nil
	}
}

func ofImage(image string, names ...string) map[string]string {
	out := map[string]string{}
	for _, n := range names {
		out[n] = image
	}
	return out
}

// story is what happened to pods, in order: "+name" came, "=name" serves, "-name" is
// to end, "~name" is gone.
type story struct {
	mu   sync.Mutex
	told []string
}

func (c *cluster) listen() *story {
	s := &story{}
	m := mirror.New[*corev1.Pod](c, api.Pods, mirror.Options{})
	m.OnChange(func(t api.EventType, old, now *corev1.Pod) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case t == api.Deleted:
			s.told = append(s.told, "~"+old.Name)
		case old == nil || old.UID != now.UID:
			s.told = append(s.told, "+"+now.Name)
		case old.DeletionTimestamp == nil && now.DeletionTimestamp != nil:
			s.told = append(s.told, "-"+now.Name)
		case !podstate.Ready(old) && podstate.Ready(now):
			s.told = append(s.told, "="+now.Name)
		}
	})
	c.run(m.Run)
	synctest.Wait()
	return s
}

// take answers with what was told since the last time.
func (s *story) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.told, " ")
	s.told = nil
	return out
}

func TestStatefulSetInOrder(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		c.node("b")
		told := c.listen()
		c.create(statefulSet("i:1", 3))
		c.eventually("three", c.settled(ofImage("i:1", "db-0", "db-1", "db-2")))
		if got, want := told.take(), "+db-0 =db-0 +db-1 =db-1 +db-2 =db-2"; got != want {
			t.Errorf("the start: %s\nwant       %s", got, want)
		}
		for _, p := range c.pods("default") {
			if p.Spec.Hostname != p.Name || p.Spec.Subdomain != "db" || p.Labels[appsv1.StatefulSetPodNameLabel] != p.Name || "db-"+p.Labels[appsv1.PodIndexLabel] != p.Name {
				t.Errorf("pod %s has host name %q.%q and labels %v", p.Name, p.Spec.Hostname, p.Spec.Subdomain, p.Labels)
			}
		}
		c.alter(func(s *appsv1.StatefulSet) { s.Spec.Replicas = new(int32(1)) })
		c.eventually("one", c.settled(ofImage("i:1", "db-0")))
		if got, want := told.take(), "-db-2 ~db-2 -db-1 ~db-1"; got != want {
			t.Errorf("scaling down: %s\nwant          %s", got, want)
		}
		c.alter(func(s *appsv1.StatefulSet) {
			s.Spec.Replicas, s.Spec.Ordinals = new(int32(2)), &appsv1.StatefulSetOrdinals{Start: 1}
		})
		c.eventually("other ordinals", c.settled(ofImage("i:1", "db-1", "db-2")))
		if got, want := told.take(), "+db-1 =db-1 +db-2 =db-2 -db-0 ~db-0"; got != want {
			t.Errorf("other ordinals: %s\nwant            %s", got, want)
		}
		if _, err := c.Delete(c.ctx, api.StatefulSets, "default", "db", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("all gone", func() error {
			return errors.Join(c.gone(api.Pods, "default"), c.gone(api.ControllerRevisions, "default"))
		})
	})
}

func TestStatefulSetRolls(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		told := c.listen()
		c.create(statefulSet("i:1", 3))
		c.eventually("three", c.settled(ofImage("i:1", "db-0", "db-1", "db-2")))
		told.take()
		image := func(i string) func(*appsv1.StatefulSet) {
			return func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = i }
		}
		partition := func(n int32) func(*appsv1.StatefulSet) {
			return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = &n }
		}
		c.alter(partition(1))
		c.alter(image("i:2"))
		c.eventually("above the partition", c.settled(map[string]string{"db-0": "i:1", "db-1": "i:2", "db-2": "i:2"}))
		if got, want := told.take(), "-db-2 ~db-2 +db-2 =db-2 -db-1 ~db-1 +db-1 =db-1"; got != want {
			t.Errorf("the update: %s\nwant        %s", got, want)
		}
		s, err := api.Get[*appsv1.StatefulSet](c.ctx, c, api.StatefulSets, "default", "db")
		if st := s.Status; err != nil || st.CurrentRevision == st.UpdateRevision || st.CurrentReplicas != 1 || st.UpdatedReplicas != 2 {
			t.Errorf("half way the status is %+v, %v", st, err)
		}
		// One below the partition comes back as it was.
		if _, err := c.Delete(c.ctx, api.Pods, "default", "db-0", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("back again", c.settled(map[string]string{"db-0": "i:1", "db-1": "i:2", "db-2": "i:2"}))
		c.alter(partition(0))
		c.eventually("all", c.settled(ofImage("i:2", "db-0", "db-1", "db-2")))
		c.eventually("done", func() error {
			s, err := api.Get[*appsv1.StatefulSet](c.ctx, c, api.StatefulSets, "default", "db")
			if st := s.Status; err == nil && (st.CurrentRevision != st.UpdateRevision || st.CurrentReplicas != 3 || st.UpdatedReplicas != 3) {
				err = fmt.Errorf("the status is %+v", st)
			}
			return err
		})
		c.alter(image("i:1")) // what was comes back with its revision
		c.eventually("rolled back", c.settled(ofImage("i:1", "db-0", "db-1", "db-2")))
		revs, err := api.Items[*appsv1.ControllerRevision](c.ctx, c, api.ControllerRevisions, api.ListOptions{Namespace: "default"})
		if err != nil || len(revs) != 2 || revs[0].Revision+revs[1].Revision != 5 {
			t.Errorf("the revisions are %+v (%v), want numbers 2 and 3", revs, err)
		}
	})
}

func TestStatefulSetInParallel(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		told := c.listen()
		s := statefulSet("i:1", 4)
		s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: new(intstr.FromInt32(2))}
		c.create(s)
		c.eventually("four", c.settled(ofImage("i:1", "db-0", "db-1", "db-2", "db-3")))
		if got, want := told.take(), "+db-0 +db-1 +db-2 +db-3 ="; !strings.HasPrefix(got, want) {
			t.Errorf("the start: %s\nwant       %s...", got, want)
		}
		c.alter(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "i:2" })
		c.eventually("the update", c.settled(ofImage("i:2", "db-0", "db-1", "db-2", "db-3")))
		got := told.take()
		if !strings.HasPrefix(got, "-db-3 -db-2 ~") {
			t.Errorf("the update: %s, want it to begin with two at once", got)
		}
		missing := map[string]bool{}
		for w := range strings.FieldsSeq(got) {
			switch w[0] {
			case '-':
				missing[w[1:]] = true
			case '=':
				delete(missing, w[1:])
			}
			if len(missing) > 2 {
				t.Fatalf("more than two are missing at %s in %s", w, got)
			}
		}
		c.alter(func(s *appsv1.StatefulSet) { s.Spec.Replicas = new(int32(1)) })
		c.eventually("one", c.settled(ofImage("i:2", "db-0")))
		if got, want := told.take(), "-db-3 -db-2 -db-1 ~"; !strings.HasPrefix(got, want) {
			t.Errorf("scaling down: %s\nwant          %s...", got, want)
		}
	})
}

func TestStatefulSetOnDeleteAndFailures(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		s := statefulSet("i:1", 2)
		s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
		s.Spec.MinReadySeconds = 10
		c.create(s)
		if took := c.eventually("two", c.settled(ofImage("i:1", "db-0", "db-1"))); took < 20*time.Second {
			t.Errorf("two pods that each have to be ready for 10 s were available after %v", took)
		}
		c.alter(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "i:2" })
		c.pass(time.Minute)
		if err := c.settled(ofImage("i:1", "db-0", "db-1"))(); err != nil {
			t.Errorf("nothing was deleted, and yet: %v", err)
		}
		// One that has ended by itself is replaced.
		_, err := api.Mutate(c.ctx, c, api.Pods, "default", "db-0", api.UpdateOptions{Subresource: "status"}, func(p *corev1.Pod) (bool, error) {
			p.Status.Phase, p.Status.Conditions = corev1.PodFailed, nil
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		c.eventually("replaced", c.settled(map[string]string{"db-0": "i:2", "db-1": "i:1"}))
	})
}

// A pod without an owner that has the name and the labels becomes the set's; one that
// has the name alone stands in the way.
func TestStatefulSetAdopts(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		s := statefulSet("i:1", 2)
		mine := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db-0", Labels: s.Spec.Template.Labels}, Spec: s.Spec.Template.Spec}
		other := mine.DeepCopy()
		other.Name, other.Labels = "db-1", nil
		c.create(mine)
		c.create(other)
		c.create(s)
		c.eventually("adoption", func() error {
			p, err := api.Get[*corev1.Pod](c.ctx, c, api.Pods, "default", "db-0")
			if err == nil && (metav1.GetControllerOf(p) == nil || p.Labels[appsv1.PodIndexLabel] != "0") {
				err = fmt.Errorf("owners %v, labels %v", p.OwnerReferences, p.Labels)
			}
			return err
		})
		c.pass(10 * time.Second)
		if _, err := c.Delete(c.ctx, api.Pods, "default", "db-1", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("two", func() error {
			p, err := api.Get[*corev1.Pod](c.ctx, c, api.Pods, "default", "db-1")
			if err == nil && metav1.GetControllerOf(p) == nil {
				err = errors.New("db-1 is still the other one")
			}
			return err
		})
	})
}

// A set that is deleted without its pods, and made anew with what may not be changed,
// goes on with them as they are.
func TestStatefulSetMadeAnew(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		c.create(statefulSet("i:1", 2))
		c.eventually("two", c.settled(ofImage("i:1", "db-0", "db-1")))
		c.alter(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "i:2" })
		c.eventually("two of the second version", c.settled(ofImage("i:2", "db-0", "db-1")))
		if _, err := c.Delete(c.ctx, api.StatefulSets, "default", "db", api.DeleteOptions{Propagation: metav1.DeletePropagationOrphan}); err != nil {
			t.Fatal(err)
		}
		c.eventually("the set is gone", func() error { return c.gone(api.StatefulSets, "default") })
		before := c.store.creates.Load()
		s := statefulSet("i:2", 2)
		s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		c.create(s)
		c.eventually("two again", c.settled(ofImage("i:2", "db-0", "db-1")))
		c.pass(time.Minute)
		if n := c.store.creates.Load() - before; n != 0 {
			t.Errorf("%d pods were made anew", n)
		}
		revs, err := api.Items[*appsv1.ControllerRevision](c.ctx, c, api.ControllerRevisions, api.ListOptions{Namespace: "default"})
		if err != nil || len(revs) != 2 || metav1.GetControllerOf(revs[0]) == nil || metav1.GetControllerOf(revs[1]) == nil {
			t.Errorf("the revisions are %+v, %v; want the two of before", revs, err)
		}
	})
}

// The pod of a lost node is replaced when that is back and has ended it, when it was
// removed, or when somebody says that it is dead; and not before.
func TestStatefulSetOnALostNode(t *testing.T) {
	end := map[string]func(*cluster, *agent){
		"it comes back": func(_ *cluster, a *agent) { a.start() },
		"it is removed": func(c *cluster, _ *agent) {
			if _, err := c.Delete(c.ctx, api.Nodes, "", "a", api.DeleteOptions{}); err != nil {
				c.t.Fatal(err)
			}
		},
		"it is out of service": func(c *cluster, _ *agent) {
			_, err := api.Mutate(c.ctx, c, api.Nodes, "", "a", api.UpdateOptions{}, func(n *corev1.Node) (bool, error) {
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
				return true, nil
			})
			if err != nil {
				c.t.Fatal(err)
			}
		},
	}
	for name, end := range end {
		t.Run(name, func(t *testing.T) {
			start(t, controller.Config{}, func(c *cluster) {
				a := c.node("a")
				s := statefulSet("i:1", 1)
				c.create(s)
				c.eventually("one", c.settled(ofImage("i:1", "db-0")))
				c.node("b")
				was := c.pods("default")[0]
				a.die()
				c.eventually("lost", func() error { return c.tainted("a") })
				c.pass(time.Minute)
				if p := c.pods("default"); len(p) != 1 || p[0].UID != was.UID || p[0].DeletionTimestamp != nil || podstate.Ready(p[0]) {
					t.Fatalf("a minute later the pods are %+v, want the one, not ready", p)
				}
				c.pass(5 * time.Minute)
				if p := c.pods("default"); len(p) != 1 || p[0].UID != was.UID || p[0].DeletionTimestamp == nil {
					t.Fatalf("six minutes later the pods are %+v, want the one, ending", p)
				}
				// Whatever else is asked, there is no second one.
				c.alter(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "i:2" })
				if _, err := c.Delete(c.ctx, api.Pods, "default", "db-0", api.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
				c.pass(time.Hour)
				if p := c.pods("default"); len(p) != 1 || p[0].UID != was.UID {
					t.Fatalf("an hour later the pods are %+v, want the one", p)
				}
				end(c, a)
				c.eventually("replaced", c.settled(ofImage("i:2", "db-0")))
			})
		})
	}
}

// one holds a run of a set against what there may be: per name one pod that is not
// known to have ended, whatever happens to nodes and to the control plane.
type one struct {
	mu   sync.Mutex
	live map[string]types.UID // what nodes run, by pod name
	bad  []string
}

func (o *one) begins(p *corev1.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if was, ok := o.live[p.Name]; ok && was != p.UID {
		o.bad = append(o.bad, fmt.Sprintf("%s runs as %s on %s while %s does", p.Name, p.UID, p.Spec.NodeName, was))
	}
	o.live[p.Name] = p.UID
}

func (o *one) ends(p *corev1.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.live[p.Name] == p.UID {
		delete(o.live, p.Name)
	}
}

// Nodes that are cut off go on running their pods. The pods' own record must never show
// two of a name.
func TestStatefulSetNeverTwice(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		o := &one{live: map[string]types.UID{}}
		nodes := map[string]*agent{}
		for _, n := range []string{"a", "b", "c"} {
			a := c.node(n)
			a.state = func(p *corev1.Pod) corev1.PodStatus {
				o.begins(p)
				return corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}}
			}
			nodes[n] = a
		}
		watch := mirror.New[*corev1.Pod](c, api.Pods, mirror.Options{})
		watch.OnChange(func(t api.EventType, old, now *corev1.Pod) {
			// Only the agent of a living node takes its pods' objects away.
			if t == api.Deleted || now != nil && old != nil && now.UID != old.UID {
				if a := nodes[old.Spec.NodeName]; a != nil && !a.dead.Load() {
					o.ends(old)
				}
			}
		})
		c.run(watch.Run)
		s := statefulSet("i:1", 3)
		s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		c.create(s)
		c.eventually("three", c.settled(ofImage("i:1", "db-0", "db-1", "db-2")))
		for i, n := range []string{"a", "b", "c", "a", "c"} {
			nodes[n].die()
			c.pass(time.Duration(i) * 2 * time.Minute)
			c.alter(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("i:%d", i+2) })
			for _, p := range c.pods("default") {
				_, _ = c.Delete(context.WithoutCancel(c.ctx), api.Pods, p.Namespace, p.Name, api.DeleteOptions{UID: p.UID})
			}
			c.pass(7 * time.Minute)
			nodes[n].start()
			c.eventually("all back", c.settled(ofImage(fmt.Sprintf("i:%d", i+2), "db-0", "db-1", "db-2")))
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if slices.Sort(o.bad); len(o.bad) > 0 {
			t.Errorf("two of a name:\n%s", strings.Join(o.bad, "\n"))
		}
	})
}
