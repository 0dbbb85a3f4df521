package binder

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/storage"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

func (r *Controller) reconcileVolume(ctx context.Context, name string) (time.Duration, error) {
	v, ok := r.c.View.PersistentVolumes.Get("", name)
	if !ok {
		return 0, nil
	}
	held, err := r.held(ctx, v)
	if err != nil {
		return 0, err
	}
	if v.DeletionTimestamp != nil {
		return 0, r.let(ctx, v, held)
	}
	phase, say := phaseOf(v, held)
	if err := r.volumeStatus(ctx, v, phase, say); err != nil {
		return 0, err
	}
	if phase != corev1.VolumeReleased || v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return 0, nil
	}
	r.c.Log.Info("volume released", slog.String("volume", v.Name))
	_, err = r.c.Objects.Delete(ctx, api.PersistentVolumes, "", v.Name, api.DeleteOptions{UID: v.UID, ResourceVersion: v.ResourceVersion})
	if apierrors.IsConflict(err) {
		return 0, nil // its change comes by the mirror
	}
	return 0, gone(err)
}

// held tells whether the claim that a volume was given to is there. That it is not the
// store has to say: what is on the volume may be lost by it.
func (r *Controller) held(ctx context.Context, v *corev1.PersistentVolume) (bool, error) {
	ref := v.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return false, nil
	}
	if c, ok := r.c.View.PersistentVolumeClaims.Get(ref.Namespace, ref.Name); ok && c.UID == ref.UID {
		return true, nil
	}
	c, err := r.c.Objects.Get(ctx, api.PersistentVolumeClaims, ref.Namespace, ref.Name)
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("claim of volume %s: %w", v.Name, err)
	}
	return c.GetUID() == ref.UID, nil
}

// phaseOf is where a volume stands, and what is to be said of it.
func phaseOf(v *corev1.PersistentVolume, held bool) (corev1.PersistentVolumePhase, string) {
	ref := v.Spec.ClaimRef
	switch {
	case ref == nil || ref.UID == "":
		return corev1.VolumeAvailable, ""
	case held:
		return corev1.VolumeBound, ""
	case v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete && (v.Spec.CSI == nil || v.Spec.CSI.Driver != api.LocalProvisioner):
		return corev1.VolumeFailed, "what people have put somewhere is not deleted: remove it, and then this object"
	}
	return corev1.VolumeReleased, ""
}

func (r *Controller) volumeStatus(ctx context.Context, v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, say string) error {
	if v.Status.Phase == phase && v.Status.Message == say {
		return nil
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.PersistentVolumes, "", v.Name, api.UpdateOptions{Subresource: "status"}, func(o *corev1.PersistentVolume) (bool, error) {
		if o.UID != v.UID || !equality.Semantic.DeepEqual(o.Spec.ClaimRef, v.Spec.ClaimRef) {
			return false, nil // its change comes by the mirror
		}
		o.Status.Phase, o.Status.Message = phase, say
		return true, nil
	})
	return gone(err)
}

// let takes out of a deleted volume what holds it: the protection once no claim has it,
// and, of one whose node is no more, that its disk is still to be cleared.
func (r *Controller) let(ctx context.Context, v *corev1.PersistentVolume, held bool) error {
	if held {
		return nil
	}
	take := []string{api.FinalizerVolume}
	if node := api.NodeOfVolume(v); node != "" && slices.Contains(v.Finalizers, api.FinalizerDisk) {
		_, err := r.c.Objects.Get(ctx, api.Nodes, "", node)
		if gone(err) != nil {
			return fmt.Errorf("node of volume %s: %w", v.Name, err)
		}
		if err != nil {
			take = append(take, api.FinalizerDisk)
		}
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.PersistentVolumes, "", v.Name, api.UpdateOptions{}, func(o *corev1.PersistentVolume) (bool, error) {
		n := len(o.Finalizers)
		o.Finalizers = slices.DeleteFunc(o.Finalizers, func(f string) bool { return slices.Contains(take, f) })
		return o.UID == v.UID && len(o.Finalizers) != n, nil
	})
	return gone(err)
}

// ofClaim wakes the volumes that are, or may be, a claim's.
func (r *Controller) ofClaim(c *corev1.PersistentVolumeClaim) {
	for _, v := range r.c.View.PersistentVolumes.List() {
		if v.Name == c.Spec.VolumeName || storage.Promised(v, c) {
			r.volumes.Add(v.Name)
		}
	}
}

func keyOf(ref *corev1.ObjectReference) types.NamespacedName {
	return types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
}
