package controller_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/podstate"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func claim(name string, class *string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	c.Spec.StorageClassName = class
	return c
}

func user(name string, claims ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	for i, c := range claims {
		v := corev1.Volume{Name: fmt.Sprint("v", i)}
		v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c}
		p.Spec.Volumes = append(p.Spec.Volumes, v)
	}
	return p
}

func hostVolume(name, class, size, node string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"disk": name}}}
	v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	v.Spec.StorageClassName = class
	v.Spec.Local = &corev1.LocalVolumeSource{Path: "/disks/" + name}
	v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}}
	return v
}

func (c *cluster) claimOf(name string) *corev1.PersistentVolumeClaim {
	c.t.Helper()
	o, err := api.Get[*corev1.PersistentVolumeClaim](c.ctx, c, api.PersistentVolumeClaims, "default", name)
	if err != nil {
		c.t.Fatal(err)
	}
	return o
}

// boundTo says what a claim lacks to be bound, to a volume of the name if that is given.
func (c *cluster) boundTo(name, volume string) func() error {
	return func() error {
		o := c.claimOf(name)
		if o.Status.Phase != corev1.ClaimBound || volume != "" && o.Spec.VolumeName != volume {
			return fmt.Errorf("claim %s is %s, of volume %q, want %q", name, o.Status.Phase, o.Spec.VolumeName, volume)
		}
		v, err := api.Get[*corev1.PersistentVolume](c.ctx, c, api.PersistentVolumes, "", o.Spec.VolumeName)
		if err == nil && (v.Status.Phase != corev1.VolumeBound || v.Spec.ClaimRef.UID != o.UID) {
			err = fmt.Errorf("volume %s is %s", v.Name, v.Status.Phase)
		}
		return err
	}
}

func (c *cluster) runs(name, node string) func() error {
	return func() error {
		p, err := api.Get[*corev1.Pod](c.ctx, c, api.Pods, "default", name)
		if err == nil && (!podstate.Ready(p) || node != "" && p.Spec.NodeName != node) {
			err = fmt.Errorf("pod %s is on %q, conditions %+v; want it ready on %q", name, p.Spec.NodeName, p.Status.Conditions, node)
		}
		return err
	}
}

func (c *cluster) waits(name, why string) func() error {
	return func() error {
		p, err := api.Get[*corev1.Pod](c.ctx, c, api.Pods, "default", name)
		if err != nil {
			return err
		}
		if s := podstate.Condition(p, corev1.PodScheduled); p.Spec.NodeName != "" || s == nil || !strings.Contains(s.Message, why) {
			return fmt.Errorf("pod %s is on %q, its condition %+v; want it to wait: %s", name, p.Spec.NodeName, s, why)
		}
		return nil
	}
}

// available says which volumes the controllers do not know yet.
func (c *cluster) available(volumes ...string) func() error {
	return func() error {
		for _, name := range volumes {
			v, err := api.Get[*corev1.PersistentVolume](c.ctx, c, api.PersistentVolumes, "", name)
			if err == nil && v.Status.Phase != corev1.VolumeAvailable {
				err = fmt.Errorf("volume %s is %q", name, v.Status.Phase)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

func (c *cluster) drop(r *api.Resource, name string) {
	c.t.Helper()
	ns := ""
	if r.Namespaced {
		ns = "default"
	}
	if _, err := c.Delete(c.ctx, r, ns, name, api.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// clear is what a node agent does about volumes whose objects are deleted.
func (c *cluster) clearDisks() {
	c.t.Helper()
	vs, err := api.Items[*corev1.PersistentVolume](c.ctx, c, api.PersistentVolumes, api.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, v := range vs {
		if v.DeletionTimestamp == nil || len(v.Finalizers) != 1 || v.Finalizers[0] != api.FinalizerDisk {
			continue
		}
		if _, err := api.Mutate(c.ctx, c, api.PersistentVolumes, "", v.Name, api.UpdateOptions{}, func(o *corev1.PersistentVolume) (bool, error) {
			o.Finalizers = nil
			return true, nil
		}); err != nil {
			c.t.Fatal(err)
		}
	}
}

func TestClaimWaitsForItsPod(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		c.create(claim("data", nil))
		c.pass(5 * time.Second)
		if o := c.claimOf("data"); o.Spec.StorageClassName == nil || *o.Spec.StorageClassName != "local" || o.Status.Phase != corev1.ClaimPending || o.Spec.VolumeName != "" {
			t.Fatalf("without a pod the claim is %+v, %+v; want it pending, of the default class", o.Spec, o.Status)
		}
		p := user("p", "data")
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "b"}
		c.create(p)
		c.pass(time.Second)
		c.node("b")
		c.eventually("the pod", c.runs("p", "b"))
		c.eventually("the claim", c.boundTo("data", ""))
		v, err := api.Get[*corev1.PersistentVolume](c.ctx, c, api.PersistentVolumes, "", c.claimOf("data").Spec.VolumeName)
		if err != nil || !api.IsDiskOf(v, "b") || v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || v.Spec.Capacity.Storage().String() != "1Gi" {
			t.Fatalf("the volume is %+v, %v", v, err)
		}
		// Another pod that uses it goes where it is, though there is more room elsewhere.
		c.create(user("q", "data"))
		c.eventually("the second pod", c.runs("q", "b"))
		// A claim that is in use stays until it is not.
		c.drop(api.PersistentVolumeClaims, "data")
		c.pass(time.Minute)
		c.drop(api.Pods, "p")
		c.pass(time.Minute)
		if o := c.claimOf("data"); o.DeletionTimestamp == nil {
			t.Error("the claim is not being deleted")
		}
		c.create(user("late", "data"))
		c.eventually("a pod of a claim that goes", c.waits("late", "is being deleted"))
		c.drop(api.Pods, "q")
		c.eventually("the claim's end", func() error { return c.gone(api.PersistentVolumeClaims, "default") })
		c.eventually("the volume's deletion", func() error {
			v, err := api.Get[*corev1.PersistentVolume](c.ctx, c, api.PersistentVolumes, "", v.Name)
			if err == nil && (v.DeletionTimestamp == nil || !slices.Equal(v.Finalizers, []string{api.FinalizerDisk})) {
				err = fmt.Errorf("deleted at %v, held by %v", v.DeletionTimestamp, v.Finalizers)
			}
			return err
		})
		c.pass(time.Minute)
		if err := c.gone(api.PersistentVolumes, ""); err == nil {
			t.Error("the volume is gone though its node has not said so")
		}
		c.clearDisks()
		c.eventually("the volume's end", func() error { return c.gone(api.PersistentVolumes, "") })
	})
}

// Room that a pod has been given is kept while its claims are bound: else several would
// get their volumes where only one of them fits.
func TestClaimsOfManyPods(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		s := statefulSet("i:1", 6)
		s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		s.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{*claim("data", nil), *claim("log", nil)}
		for i := range s.Spec.VolumeClaimTemplates {
			s.Spec.VolumeClaimTemplates[i].Namespace = ""
		}
		c.create(s)
		c.pass(time.Second)
		for _, n := range []string{"a", "b", "c"} { // of two pods' room each
			c.node(n)
		}
		all := ofImage("i:1", "db-0", "db-1", "db-2", "db-3", "db-4", "db-5")
		c.eventually("all", c.settled(all))
		at := map[string]string{}
		for _, p := range c.pods("default") {
			at[p.Name] = p.Spec.NodeName
			for _, kind := range []string{"data", "log"} {
				if err := c.boundTo(kind+"-"+p.Name, "pvc-"+string(c.claimOf(kind+"-"+p.Name).UID))(); err != nil {
					t.Error(err)
				}
			}
		}
		// They come back to their data.
		for name := range at {
			c.drop(api.Pods, name)
		}
		c.eventually("all again", func() error {
			for _, p := range c.pods("default") {
				if p.DeletionTimestamp != nil {
					return fmt.Errorf("%s ends", p.Name)
				}
			}
			return c.settled(all)()
		})
		for _, p := range c.pods("default") {
			if at[p.Name] != p.Spec.NodeName {
				t.Errorf("%s was on %s and is on %s", p.Name, at[p.Name], p.Spec.NodeName)
			}
		}
	})
}

func TestClaimRetention(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		s := statefulSet("i:1", 2)
		d := *claim("data", nil)
		d.Namespace = ""
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{d}
		c.create(s)
		c.eventually("two", c.settled(ofImage("i:1", "db-0", "db-1")))
		first := c.claimOf("data-db-1").UID
		scale := func(n int32) {
			c.alter(func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n })
			names := []string{"db-0", "db-1"}[:n]
			c.eventually("scaling", c.settled(ofImage("i:1", names...)))
		}
		scale(1)
		c.pass(time.Minute)
		if c.claimOf("data-db-1").UID != first {
			t.Error("scaling down took the claim")
		}
		scale(2)
		if c.claimOf("data-db-1").UID != first {
			t.Error("the pod that came back has another claim")
		}
		c.alter(func(s *appsv1.StatefulSet) {
			s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		})
		scale(1)
		c.eventually("the claim's end", func() error {
			cs, err := api.Items[*corev1.PersistentVolumeClaim](c.ctx, c, api.PersistentVolumeClaims, api.ListOptions{Namespace: "default"})
			if err == nil && len(cs) != 1 {
				err = fmt.Errorf("%d claims, want one", len(cs))
			}
			return err
		})
		scale(2)
		if c.claimOf("data-db-1").UID == first {
			t.Error("the claim that was to go is there")
		}
		c.alter(func(s *appsv1.StatefulSet) {
			s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		})
		c.pass(5 * time.Second)
		c.drop(api.StatefulSets, "db")
		c.eventually("the end of all", func() error {
			c.clearDisks()
			return errors.Join(c.gone(api.Pods, "default"), c.gone(api.PersistentVolumeClaims, "default"), c.gone(api.PersistentVolumes, ""))
		})
	})
}

// Volumes that people made: by size, class, selector, name and node, and what becomes of
// them afterwards.
func TestVolumesThatPeopleMade(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		c.node("b")
		none := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "disks"}, Provisioner: api.NoProvisioner, VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer)}
		c.create(none)
		for _, v := range []*corev1.PersistentVolume{
			hostVolume("big", "", "10Gi", "a"), hostVolume("small", "", "2Gi", "a"), hostVolume("tiny", "", "1Mi", "a"), hostVolume("later", "disks", "1Gi", "b"),
		} {
			c.create(v)
		}
		c.eventually("volumes", c.available("big", "small", "tiny", "later"))
		c.create(claim("fits", new("")))
		c.eventually("the smallest that is large enough", c.boundTo("fits", "small"))
		chosen := claim("chosen", new(""))
		chosen.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "big"}}
		c.create(chosen)
		c.eventually("by selector", c.boundTo("chosen", "big"))
		c.create(claim("left", new("")))
		c.create(user("no", "left"))
		c.eventually("no volume is left", c.waits("no", "unbound immediate PersistentVolumeClaims"))
		named := hostVolume("named", "", "5Gi", "b")
		named.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "mine"}
		c.create(named)
		c.pass(5 * time.Second)
		if o := c.claimOf("left"); o.Spec.VolumeName != "" {
			t.Errorf("a volume that was set aside for another claim was given away: %+v", o.Spec)
		}
		mine := claim("mine", new(""))
		mine.Spec.VolumeName = "named"
		c.create(mine)
		c.eventually("by name", c.boundTo("mine", "named"))

		c.create(claim("wait", new("disks")))
		away := user("away", "wait")
		away.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "a"}
		c.create(away)
		c.eventually("a node without a volume", c.waits("away", "didn't find available persistent volumes to bind"))
		c.create(user("there", "wait"))
		c.eventually("the node with the volume", c.runs("there", "b"))
		c.eventually("the other one", c.waits("away", "didn't match PersistentVolume's node affinity"))

		// Retained: nobody else gets what is on it.
		c.drop(api.PersistentVolumeClaims, "fits")
		c.eventually("released", func() error {
			v, err := api.Get[*corev1.PersistentVolume](c.ctx, c, api.PersistentVolumes, "", "small")
			if err == nil && v.Status.Phase != corev1.VolumeReleased {
				err = fmt.Errorf("the volume is %s", v.Status.Phase)
			}
			return err
		})
		c.pass(time.Minute)
		if o := c.claimOf("left"); o.Spec.VolumeName != "" {
			t.Errorf("another claim has got the data of one that is gone: %+v", o.Spec)
		}
		// A volume that is bound stays until it is not.
		c.drop(api.PersistentVolumes, "named")
		c.pass(time.Minute)
		if err := c.boundTo("mine", "named")(); err != nil {
			t.Error(err)
		}
		c.drop(api.PersistentVolumeClaims, "mine")
		c.eventually("its end", func() error {
			_, err := c.Get(c.ctx, api.PersistentVolumes, "", "named")
			if err == nil {
				return errors.New("the volume is there")
			}
			return nil
		})
	})
}

func TestClaimOfOnePod(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		c.node("a")
		only := claim("only", nil)
		only.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
		c.create(only)
		c.create(user("p", "only"))
		c.eventually("the first", c.runs("p", "a"))
		c.create(user("q", "only"))
		c.eventually("the second", c.waits("q", "ReadWriteOncePod"))
		c.drop(api.Pods, "p")
		c.eventually("the second, after the first", c.runs("q", "a"))
		many := claim("many", nil)
		many.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		c.create(many)
		c.create(user("r", "many"))
		c.pass(30 * time.Second)
		if o := c.claimOf("many"); o.Spec.VolumeName != "" {
			t.Errorf("a claim that many nodes could write to was bound: %+v", o.Spec)
		}
	})
}

// A volume of a node that is gone is gone with it.
func TestVolumeOfARemovedNode(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		a := c.node("a")
		now := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "now"}, Provisioner: api.LocalProvisioner}
		c.create(now)
		c.create(claim("data", new("now")))
		c.eventually("bound at once", c.boundTo("data", ""))
		c.create(user("p", "data"))
		c.eventually("the pod", c.runs("p", "a"))
		c.node("b")
		a.die()
		c.drop(api.Nodes, "a")
		c.eventually("the pod's end", func() error { return c.gone(api.Pods, "default") })
		c.create(user("q", "data"))
		c.eventually("the pod that wants the data", c.waits("q", "didn't match PersistentVolume's node affinity"))
		c.drop(api.PersistentVolumeClaims, "data")
		c.eventually("the end of all", func() error {
			return errors.Join(c.gone(api.PersistentVolumeClaims, "default"), c.gone(api.PersistentVolumes, ""))
		})
	})
}
