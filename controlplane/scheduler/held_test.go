package scheduler_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// late is a watch whose events come after a while.
type late struct {
	api.Watch
	by  *atomic.Int64
	out chan api.Event
}

func (l late) Events() <-chan api.Event { return l.out }

func newLate(ctx context.Context, w api.Watch, by *atomic.Int64) api.Watch {
	l := late{w, by, make(chan api.Event)}
	go func() {
		defer close(l.out)
		for e := range w.Events() {
			if d := time.Duration(by.Load()); d > 0 {
				select {
				case <-time.After(d):
				case <-ctx.Done():
				}
			}
			select {
			case l.out <- e:
			case <-ctx.Done():
			}
		}
	}()
	return l
}

// A pod that has got its node keeps its room although a change of its claims has it
// looked at again before the scheduler sees that it is bound: else another pod would
// get the room, and be beside one that it must not be beside.
func TestBoundPodKeepsItsRoom(t *testing.T) {
	run(t, func(b *bench) {
		wait := storagev1.VolumeBindingWaitForFirstConsumer
		class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: api.LocalProvisioner, VolumeBindingMode: &wait}
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "data"}}
		claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		claim.Spec.StorageClassName = &class.Name
		claim.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
		for _, o := range []api.Object{class, claim} {
			if _, err := b.Create(b.ctx, o); err != nil {
				b.t.Fatal(err)
			}
		}
		change := func(f func(c *corev1.PersistentVolumeClaim)) {
			if _, err := api.Mutate(b.ctx, b.Objects, api.PersistentVolumeClaims, "d", "data", api.UpdateOptions{}, func(c *corev1.PersistentVolumeClaim) (bool, error) {
				f(c)
				return true, nil
			}); err != nil {
				b.t.Error(err)
			}
		}
		alone := func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": "member"}
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
				{TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}},
			}}}
		}
		b.node("n", "4", 10)
		if _, err := api.Mutate(b.ctx, b.Objects, api.Nodes, "", "n", api.UpdateOptions{}, func(n *corev1.Node) (bool, error) {
			n.Labels = map[string]string{corev1.LabelHostname: "n"}
			return true, nil
		}); err != nil {
			b.t.Fatal(err)
		}
		b.pod("first", "1", alone, func(p *corev1.Pod) {
			v := corev1.Volume{Name: "v"}
			v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}
			p.Spec.Volumes = []corev1.Volume{v}
		})
		if p := b.get("first"); p.Spec.NodeName != "" {
			b.t.Fatalf("it is on %s before its claim is bound", p.Spec.NodeName)
		}
		b.pod("second", "1", alone) // has nowhere to be

		// The claim is bound, and so the first pod; before its mirror shows that, the
		// claim changes again.
		synctest.Wait()
		b.before = func(p *corev1.Pod) {
			if p.Name == "first" {
				b.late.Store(int64(5 * time.Second))
			}
		}
		bound, err := api.Get[*corev1.PersistentVolumeClaim](b.ctx, b, api.PersistentVolumeClaims, "d", "data")
		if err != nil || bound.Annotations[api.AnnotationSelectedNode] != "n" {
			b.t.Fatalf("the claim is for %v, %v", bound.Annotations, err)
		}
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}}
		v.Spec.AccessModes, v.Spec.StorageClassName = bound.Spec.AccessModes, "local"
		v.Spec.Capacity = bound.Spec.Resources.Requests
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "d", Name: "data", UID: bound.UID}
		v.Spec.Local = &corev1.LocalVolumeSource{Path: "/disk"}
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"n"}}},
		}}}}
		if _, err := b.Create(b.ctx, v); err != nil {
			b.t.Fatal(err)
		}
		change(func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "disk" })
		synctest.Wait()
		for range 40 {
			<-time.After(100 * time.Millisecond)
			change(func(c *corev1.PersistentVolumeClaim) { c.Annotations["looked"] = time.Now().String() })
		}
		if p := b.get("first"); p.Spec.NodeName != "n" {
			b.t.Fatalf("the first is on %q", p.Spec.NodeName)
		}
		<-time.After(time.Minute)
		if p := b.get("second"); p.Spec.NodeName != "" {
			b.t.Error("the second is beside the first, which it must not be beside")
		}
	})
}
