package storage

import (
	"strings"
	"testing"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func volume(name, size, node string, change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	if node != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
	}
	if change != nil {
		change(v)
	}
	return v
}

func claim(name string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID("uid of " + name)}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	if change != nil {
		change(c)
	}
	return c
}

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
}

func given(to string, uid types.UID) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "d", Name: to, UID: uid}
	}
}

func TestBest(t *testing.T) {
	label := func(v *corev1.PersistentVolume) { v.Labels = map[string]string{"kind": "fast"} }
	for name, c := range map[string]struct {
		volumes []*corev1.PersistentVolume
		change  func(*corev1.PersistentVolumeClaim)
		node    *corev1.Node
		want    string
	}{
		"the smallest that is large enough": {[]*corev1.PersistentVolume{volume("a", "3Gi", "", nil), volume("b", "2Gi", "", nil), volume("c", "1Mi", "", nil)}, nil, nil, "b"},
		"of two the first by name":          {[]*corev1.PersistentVolume{volume("b", "1Gi", "", nil), volume("a", "1Gi", "", nil)}, nil, nil, "a"},
		"one that is set aside for it":      {[]*corev1.PersistentVolume{volume("a", "1Gi", "", nil), volume("b", "9Gi", "", given("c", ""))}, nil, nil, "b"},
		"not one of another claim":          {[]*corev1.PersistentVolume{volume("a", "1Gi", "", given("x", ""))}, nil, nil, ""},
		"not one of a former claim of its name": {
			[]*corev1.PersistentVolume{volume("a", "1Gi", "", given("c", "former"))}, nil, nil, "",
		},
		"on the node": {[]*corev1.PersistentVolume{volume("a", "1Gi", "m", nil), volume("b", "2Gi", "n", nil)}, nil, node("n"), "b"},
		"by selector": {[]*corev1.PersistentVolume{volume("a", "1Gi", "", nil), volume("b", "2Gi", "", label)}, func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"kind": "fast"}}
		}, nil, "b"},
		"not of another class": {[]*corev1.PersistentVolume{volume("a", "1Gi", "", nil)}, func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = new("x") }, nil, ""},
		"not without the mode": {[]*corev1.PersistentVolume{volume("a", "1Gi", "", nil)}, func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}, nil, ""},
		"not one that is being deleted": {
			[]*corev1.PersistentVolume{volume("a", "1Gi", "", func(v *corev1.PersistentVolume) { v.DeletionTimestamp = &metav1.Time{} })}, nil, nil, "",
		},
	} {
		got := ""
		if v := Best(c.volumes, claim("c", c.change), c.node); v != nil {
			got = v.Name
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// world has claims, volumes and classes by name; the classes are of volumes that people
// made, and of such that are made where they are wanted.
func world(claims []*corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume, users ...*corev1.Pod) World {
	wait, now := storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	classes := map[string]*storagev1.StorageClass{
		"disks": {ObjectMeta: metav1.ObjectMeta{Name: "disks"}, Provisioner: api.NoProvisioner, VolumeBindingMode: &wait},
		"local": {ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: api.LocalProvisioner, VolumeBindingMode: &wait},
		"now":   {ObjectMeta: metav1.ObjectMeta{Name: "now"}, Provisioner: api.LocalProvisioner, VolumeBindingMode: &now},
	}
	return World{
		Claim: func(_, name string) (*corev1.PersistentVolumeClaim, bool) {
			for _, c := range claims {
				if c.Name == name {
					return c, true
				}
			}
			return nil, false
		},
		Volume: func(name string) (*corev1.PersistentVolume, bool) {
			for _, v := range volumes {
				if v.Name == name {
					return v, true
				}
			}
			return nil, false
		},
		Class:   func(name string) (*storagev1.StorageClass, bool) { c, ok := classes[name]; return c, ok },
		Volumes: func() []*corev1.PersistentVolume { return volumes },
		Users:   func(string, string) []*corev1.Pod { return users },
	}
}

func TestOf(t *testing.T) {
	class := func(name string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
	}
	bound := func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" }
	onDisks := func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "disks" }
	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "other"}}
	ended := other.DeepCopy()
	ended.Status.Phase = corev1.PodSucceeded
	single := func(c *corev1.PersistentVolumeClaim) {
		bound(c)
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	}
	for name, c := range map[string]struct {
		w       World
		uses    []string
		why     string
		m, n    string // why the nodes of these names cannot have it
		unbound int
	}{
		"no claim":                      {world(nil, nil), nil, "", "", "", 0},
		"one that is not there":         {world(nil, nil), []string{"a"}, `"a" not found`, "", "", 0},
		"bound, to a node":              {world([]*corev1.PersistentVolumeClaim{claim("a", bound)}, []*corev1.PersistentVolume{volume("v", "1Gi", "n", given("a", "uid of a"))}), []string{"a"}, "", reasonConflict, "", 0},
		"bound on one side only":        {world([]*corev1.PersistentVolumeClaim{claim("a", bound)}, []*corev1.PersistentVolume{volume("v", "1Gi", "n", nil)}), []string{"a"}, "unbound", "", "", 0},
		"bound before there are pods":   {world([]*corev1.PersistentVolumeClaim{claim("a", class("now"))}, nil), []string{"a"}, "unbound immediate", "", "", 0},
		"of no class":                   {world([]*corev1.PersistentVolumeClaim{claim("a", nil)}, nil), []string{"a"}, "unbound immediate", "", "", 0},
		"made anywhere":                 {world([]*corev1.PersistentVolumeClaim{claim("a", class("local"))}, nil), []string{"a"}, "", "", "", 1},
		"on one node":                   {world([]*corev1.PersistentVolumeClaim{claim("a", class("disks"))}, []*corev1.PersistentVolume{volume("v", "1Gi", "n", onDisks)}), []string{"a"}, "", reasonNoVolume, "", 1},
		"two, of which one can be had":  {world([]*corev1.PersistentVolumeClaim{claim("a", class("disks")), claim("b", class("disks"))}, []*corev1.PersistentVolume{volume("v", "1Gi", "n", onDisks)}), []string{"a", "b"}, "", reasonNoVolume, reasonNoVolume, 2},
		"for one pod, that is another":  {world([]*corev1.PersistentVolumeClaim{claim("a", single)}, []*corev1.PersistentVolume{volume("v", "1Gi", "n", given("a", "uid of a"))}, other), []string{"a"}, "ReadWriteOncePod", "", "", 0},
		"for one pod, another has been": {world([]*corev1.PersistentVolumeClaim{claim("a", single)}, []*corev1.PersistentVolume{volume("v", "1Gi", "n", given("a", "uid of a"))}, ended), []string{"a"}, "", reasonConflict, "", 0},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", UID: "p"}}
		for _, u := range c.uses {
			v := corev1.Volume{Name: u}
			v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: u}
			p.Spec.Volumes = append(p.Spec.Volumes, v)
		}
		ask, why := Of(p, c.w)
		if (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
			t.Errorf("%s: %q, want %q", name, why, c.why)
			continue
		}
		if why != "" {
			continue
		}
		if m, n := ask.Forbids(node("m")), ask.Forbids(node("n")); m != c.m || n != c.n {
			t.Errorf("%s: node m %q, node n %q; want %q, %q", name, m, n, c.m, c.n)
		}
		if ask != nil && len(ask.Unbound) != c.unbound {
			t.Errorf("%s: %d unbound, want %d", name, len(ask.Unbound), c.unbound)
		}
	}
}

func TestDefaultClass(t *testing.T) {
	of := func(name string, at int64, is string) *storagev1.StorageClass {
		return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(at, 0), Annotations: map[string]string{api.AnnotationDefaultClass: is}}}
	}
	if c := DefaultClass([]*storagev1.StorageClass{of("a", 9, "false")}); c != nil {
		t.Errorf("got %s, want none", c.Name)
	}
	if c := DefaultClass([]*storagev1.StorageClass{of("a", 1, "true"), of("c", 2, "true"), of("b", 2, "true"), of("d", 3, "false")}); c == nil || c.Name != "b" {
		t.Errorf("got %v, want b: the newest, the first by name", c)
	}
}
