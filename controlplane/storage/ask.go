package storage

import (
	"fmt"
	"slices"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// Reasons in the words of Kubernetes' scheduler.
const (
	reasonConflict = "node(s) didn't match PersistentVolume's node affinity"
	reasonNoVolume = "node(s) didn't find available persistent volumes to bind"
)

// Ask is what a pod's claims ask of a node.
type Ask struct {
	// Unbound are the claims that wait for the pod's node.
	Unbound []*corev1.PersistentVolumeClaim

	volumes []*corev1.PersistentVolume // that are bound
	free    []*corev1.PersistentVolume // that the unbound may get
	made    map[string]bool            // classes whose volumes are made wherever they are wanted
}

// World is what there is of storage, as the mirrors have it.
type World struct {
	Claim   func(namespace, name string) (*corev1.PersistentVolumeClaim, bool)
	Volume  func(name string) (*corev1.PersistentVolume, bool)
	Class   func(name string) (*storagev1.StorageClass, bool)
	Volumes func() []*corev1.PersistentVolume
	// Users are the pods that have a node, or are about to, and use a claim.
	Users func(namespace, claim string) []*corev1.Pod
}

// Of works out what a pod's claims ask. why is not empty when the pod can be nowhere for
// now; nil is a pod without claims.
func Of(p *corev1.Pod, w World) (a *Ask, why string) {
	for _, name := range Names(p) {
		if a == nil {
			a = &Ask{made: map[string]bool{}}
		}
		c, ok := w.Claim(p.Namespace, name)
		switch {
		case !ok:
			return nil, fmt.Sprintf("persistentvolumeclaim %q not found", name)
		case c.DeletionTimestamp != nil:
			return nil, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
		case slices.Contains(c.Spec.AccessModes, corev1.ReadWriteOncePod) && taken(p, w.Users(p.Namespace, name)):
			return nil, "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
		}
		if c.Spec.VolumeName != "" {
			v, ok := w.Volume(c.Spec.VolumeName)
			if !ok || !Bound(v, c) {
				return nil, fmt.Sprintf("pod has unbound immediate PersistentVolumeClaims: %s waits for volume %s", name, c.Spec.VolumeName)
			}
			a.volumes = append(a.volumes, v)
			continue
		}
		class, ok := w.Class(ClassOf(c))
		if !ok || !Waits(class) {
			return nil, "pod has unbound immediate PersistentVolumeClaims"
		}
		a.Unbound = append(a.Unbound, c)
		a.made[class.Name] = class.Provisioner == api.LocalProvisioner
	}
	if a != nil && len(a.Unbound) > 0 {
		a.free = w.Volumes()
	}
	return a, ""
}

// taken tells whether another pod than p uses its claim.
func taken(p *corev1.Pod, users []*corev1.Pod) bool {
	return slices.ContainsFunc(users, func(o *corev1.Pod) bool {
		return o.UID != p.UID && o.Status.Phase != corev1.PodSucceeded && o.Status.Phase != corev1.PodFailed
	})
}

// Forbids says why a node cannot have the claims; "" is that it can. A nil Ask has none.
func (a *Ask) Forbids(n *corev1.Node) string {
	if a == nil {
		return ""
	}
	for _, v := range a.volumes {
		if !Reaches(v, n) {
			return reasonConflict
		}
	}
	left := a.free
	for _, c := range a.Unbound {
		v := Best(left, c, n)
		switch {
		case v != nil:
			left = slices.DeleteFunc(slices.Clone(left), func(o *corev1.PersistentVolume) bool { return o == v })
		case !a.made[ClassOf(c)] || c.Spec.Selector != nil:
			return reasonNoVolume
		}
	}
	return ""
}
