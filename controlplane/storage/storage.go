// Package storage says which volume a claim may be bound to, and where a pod can have
// its claims. It decides purely: the controller that binds and the scheduler ask it the
// same.
package storage

import (
	"slices"
	"strings"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// ClassOf is the class that a claim asks for; "" is volumes without one.
func ClassOf(c *corev1.PersistentVolumeClaim) string {
	if c.Spec.StorageClassName == nil {
		return ""
	}
	return *c.Spec.StorageClassName
}

// DefaultClass is the class of claims that name none: of several the newest, as in
// Kubernetes; nil is none.
func DefaultClass(classes []*storagev1.StorageClass) *storagev1.StorageClass {
	var best *storagev1.StorageClass
	for _, c := range classes {
		if c.Annotations[api.AnnotationDefaultClass] != "true" {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&c.CreationTimestamp) ||
			best.CreationTimestamp.Equal(&c.CreationTimestamp) && c.Name < best.Name {
			best = c
		}
	}
	return best
}

// Waits tells whether claims of a class are bound only when a pod that uses them has
// got a node; nil is no class.
func Waits(c *storagev1.StorageClass) bool {
	return c != nil && c.VolumeBindingMode != nil && *c.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// Promised tells whether a volume is for a claim and no other one: bound to it, or set
// aside for one of its name.
func Promised(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	r := v.Spec.ClaimRef
	return r != nil && r.Namespace == c.Namespace && r.Name == c.Name && (r.UID == "" || r.UID == c.UID)
}

// Bound tells whether a claim and a volume have one another.
func Bound(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeName == v.Name && Promised(v, c) && v.Spec.ClaimRef.UID == c.UID
}

// Suits tells whether a volume has what a claim asks for, whosever it is.
func Suits(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	if v.DeletionTimestamp != nil || v.Spec.StorageClassName != ClassOf(c) {
		return false
	}
	for _, m := range c.Spec.AccessModes {
		if !slices.Contains(v.Spec.AccessModes, m) {
			return false
		}
	}
	has, want := v.Spec.Capacity[corev1.ResourceStorage], c.Spec.Resources.Requests[corev1.ResourceStorage]
	if has.Cmp(want) < 0 {
		return false
	}
	if c.Spec.Selector == nil {
		return true
	}
	sel, err := metav1.LabelSelectorAsSelector(c.Spec.Selector)
	return err == nil && sel.Matches(labels.Set(v.Labels))
}

// Reaches tells whether a volume can be used on a node.
func Reaches(v *corev1.PersistentVolume, n *corev1.Node) bool {
	if v.Spec.NodeAffinity == nil || v.Spec.NodeAffinity.Required == nil {
		return true
	}
	s, err := nodeaffinity.NewNodeSelector(v.Spec.NodeAffinity.Required)
	return err == nil && s.Match(n)
}

// Best is the volume for a claim: one that is promised to it, else the smallest free one
// that suits; nil is none. With a node only those count that reach it.
func Best(volumes []*corev1.PersistentVolume, c *corev1.PersistentVolumeClaim, n *corev1.Node) *corev1.PersistentVolume {
	var best *corev1.PersistentVolume
	for _, v := range volumes {
		if v.Spec.ClaimRef != nil && !Promised(v, c) || !Suits(v, c) || n != nil && !Reaches(v, n) {
			continue
		}
		if best == nil || better(v, best, c) {
			best = v
		}
	}
	return best
}

func better(a, b *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	if mine := Promised(a, c); mine != Promised(b, c) {
		return mine
	}
	x, y := a.Spec.Capacity[corev1.ResourceStorage], b.Spec.Capacity[corev1.ResourceStorage]
	if d := x.Cmp(y); d != 0 {
		return d < 0
	}
	return strings.Compare(a.Name, b.Name) < 0
}

// Names are the claims that a pod uses, by name.
func Names(p *corev1.Pod) []string {
	var out []string
	for i := range p.Spec.Volumes {
		if c := p.Spec.Volumes[i].PersistentVolumeClaim; c != nil {
			out = append(out, c.ClaimName)
		}
	}
	return out
}
