package binder

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/controlplane/schedule"
	"github.com/podsnap/podsnap/controlplane/storage"
	"github.com/podsnap/podsnap/controlplane/view"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func (r *Controller) reconcileClaim(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	c, ok := r.c.View.PersistentVolumeClaims.Get(key.Namespace, key.Name)
	switch {
	case !ok:
		return 0, nil
	case c.DeletionTimestamp != nil:
		return 0, r.release(ctx, c)
	case c.Spec.VolumeName != "":
		return 0, r.bound(ctx, c)
	}
	if c.Spec.StorageClassName == nil {
		if class := storage.DefaultClass(r.c.View.StorageClasses.List()); class != nil {
			return 0, r.classify(ctx, c, class.Name)
		}
	}
	class, _ := r.c.View.StorageClasses.Get("", storage.ClassOf(c)) // nil is none
	node, ok := r.place(c, class)
	if !ok {
		r.c.Record.Event(c, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
		return 0, nil
	}
	if v := storage.Best(r.c.View.PersistentVolumes.List(), c, node); v != nil {
		return 0, r.bind(ctx, c, v)
	}
	return r.provision(ctx, c, class, node)
}

// classify gives a claim that names no class the default one, also when that comes after
// the claim.
func (r *Controller) classify(ctx context.Context, c *corev1.PersistentVolumeClaim, class string) error {
	_, err := api.Mutate(ctx, r.c.Objects, api.PersistentVolumeClaims, c.Namespace, c.Name, api.UpdateOptions{}, func(o *corev1.PersistentVolumeClaim) (bool, error) {
		if o.UID != c.UID || o.Spec.StorageClassName != nil {
			return false, nil
		}
		o.Spec.StorageClassName = &class
		return true, nil
	})
	return gone(err)
}

// place is the node for which a claim is bound, nil for any; false says that it is to
// wait for its first pod.
func (r *Controller) place(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (*corev1.Node, bool) {
	if !storage.Waits(class) {
		return nil, true
	}
	n, ok := r.c.View.Nodes.Get("", c.Annotations[api.AnnotationSelectedNode])
	return n, ok
}

// bind gives a volume to the claim, unless somebody else has it by now.
func (r *Controller) bind(ctx context.Context, c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) error {
	got, err := api.Mutate(ctx, r.c.Objects, api.PersistentVolumes, "", v.Name, api.UpdateOptions{}, func(o *corev1.PersistentVolume) (bool, error) {
		if o.UID != v.UID || o.DeletionTimestamp != nil || o.Spec.ClaimRef != nil && (!storage.Promised(o, c) || o.Spec.ClaimRef.UID == c.UID) {
			return false, nil
		}
		o.Spec.ClaimRef = refOf(c)
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("give volume %s to claim %s: %w", v.Name, view.Key(c), err) // one that is gone too: another may do
	}
	if !storage.Promised(got, c) || got.Spec.ClaimRef.UID != c.UID {
		return fmt.Errorf("volume %s was given to another claim than %s", v.Name, view.Key(c)) // try the next one
	}
	_, err = api.Mutate(ctx, r.c.Objects, api.PersistentVolumeClaims, c.Namespace, c.Name, api.UpdateOptions{}, func(o *corev1.PersistentVolumeClaim) (bool, error) {
		if o.UID != c.UID || o.Spec.VolumeName != "" {
			return false, nil
		}
		o.Spec.VolumeName = v.Name
		return true, nil
	})
	if gone(err) == nil {
		r.c.Log.Info("claim bound", slog.String("claim", view.Key(c).String()), slog.String("volume", v.Name))
	}
	return gone(err)
}

// bound brings in line what a claim with a volume says of it.
func (r *Controller) bound(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	v, ok := r.c.View.PersistentVolumes.Get("", c.Spec.VolumeName)
	if !ok {
		if c.Status.Phase != corev1.ClaimBound {
			return nil // it may come yet
		}
		if _, err := r.c.Objects.Get(ctx, api.PersistentVolumes, "", c.Spec.VolumeName); !apierrors.IsNotFound(err) {
			return err
		}
		r.c.Record.Event(c, corev1.EventTypeWarning, "ClaimLost", "Bound claim has lost its PersistentVolume. Any data on the volume is lost!")
		return r.claimStatus(ctx, c, corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimLost})
	}
	if !storage.Bound(v, c) {
		if !storage.Suits(v, c) || v.Spec.ClaimRef != nil && !storage.Promised(v, c) {
			r.c.Record.Eventf(c, corev1.EventTypeWarning, "FailedBinding", "volume %q is bound to another claim, or is not what this one asks for", v.Name)
			return nil
		}
		if err := r.bind(ctx, c, v); err != nil {
			return err
		}
	}
	return r.claimStatus(ctx, c, corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, AccessModes: v.Spec.AccessModes, Capacity: v.Spec.Capacity})
}

func (r *Controller) claimStatus(ctx context.Context, c *corev1.PersistentVolumeClaim, want corev1.PersistentVolumeClaimStatus) error {
	if equality.Semantic.DeepEqual(c.Status, want) {
		return nil
	}
	_, err := api.Mutate(ctx, r.c.Objects, api.PersistentVolumeClaims, c.Namespace, c.Name, api.UpdateOptions{Subresource: "status"}, func(o *corev1.PersistentVolumeClaim) (bool, error) {
		if o.UID != c.UID || o.Spec.VolumeName != c.Spec.VolumeName {
			return false, nil
		}
		o.Status = want
		return true, nil
	})
	return gone(err)
}

// provision makes a volume for a claim that nothing suits, if its class does that.
func (r *Controller) provision(ctx context.Context, c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, n *corev1.Node) (time.Duration, error) {
	switch {
	case class == nil && storage.ClassOf(c) != "":
		r.c.Record.Eventf(c, corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", storage.ClassOf(c))
		return 0, nil
	case class == nil:
		r.c.Record.Event(c, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
		return 0, nil
	case class.Provisioner != api.LocalProvisioner:
		r.c.Record.Eventf(c, corev1.EventTypeNormal, "ExternalProvisioning", "no persistent volume suits, and it is %q or somebody who has to make one", class.Provisioner)
		return 0, nil
	case c.Spec.Selector != nil:
		r.c.Record.Event(c, corev1.EventTypeWarning, "ProvisioningFailed", "a claim with a selector is for volumes that people made")
		return 0, nil
	case slices.Contains(c.Spec.AccessModes, corev1.ReadWriteMany):
		r.c.Record.Eventf(c, corev1.EventTypeWarning, "ProvisioningFailed", "volumes of %s are on one node: ReadWriteMany is not supported, use ReadWriteOnce, ReadOnlyMany or ReadWriteOncePod", api.LocalProvisioner)
		return 0, nil
	}
	if n == nil {
		if n = r.emptiest(); n == nil {
			r.c.Record.Event(c, corev1.EventTypeWarning, "ProvisioningFailed", "no node is ready")
			return time.Second, nil
		}
	}
	v := volumeFor(c, class, n.Name)
	_, err := r.c.Objects.Create(ctx, v)
	if err != nil && !apierrors.IsAlreadyExists(err) {
		r.c.Record.Eventf(c, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %v", class.Name, err)
		return 0, fmt.Errorf("volume for claim %s: %w", view.Key(c), err)
	}
	if err == nil {
		r.c.Record.Eventf(c, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s on node %s", v.Name, n.Name)
	}
	return 0, nil // the volume comes by the mirror
}

// emptiest is the ready node with the fewest volumes; nil is none.
func (r *Controller) emptiest() *corev1.Node {
	on := map[string]int{}
	for _, v := range r.c.View.PersistentVolumes.List() {
		on[api.NodeOfVolume(v)]++
	}
	var best *corev1.Node
	for _, n := range r.c.View.Nodes.List() {
		if schedule.Ready(n) && !n.Spec.Unschedulable && (best == nil || on[n.Name] < on[best.Name]) {
			best = n
		}
	}
	return best
}

// volumeFor is the volume of a claim on a node. Its name is the claim's uid, so that to
// make it twice is one volume.
func volumeFor(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{
		Name: "pvc-" + string(c.UID), Annotations: map[string]string{api.AnnotationProvisionedBy: api.LocalProvisioner},
		Finalizers: []string{api.FinalizerDisk, api.FinalizerVolume},
	}}
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: c.Spec.Resources.Requests[corev1.ResourceStorage]}
	v.Spec.AccessModes, v.Spec.StorageClassName, v.Spec.ClaimRef = c.Spec.AccessModes, class.Name, refOf(c)
	v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		v.Spec.PersistentVolumeReclaimPolicy = *class.ReclaimPolicy
	}
	v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: api.LocalProvisioner, VolumeHandle: v.Name}
	v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}}
	return v
}

func refOf(c *corev1.PersistentVolumeClaim) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: api.PersistentVolumeClaims.Kind, APIVersion: "v1", Namespace: c.Namespace, Name: c.Name, UID: c.UID}
}

// release lets a deleted claim go when no pod uses it. It asks the store: a pod that the
// mirror does not show yet would lose its data.
func (r *Controller) release(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	if !slices.Contains(c.Finalizers, api.FinalizerClaim) {
		return nil
	}
	pods, err := api.Items[*corev1.Pod](ctx, r.c.Objects, api.Pods, api.ListOptions{Namespace: c.Namespace})
	if err != nil {
		return fmt.Errorf("pods that use claim %s: %w", view.Key(c), err)
	}
	for _, p := range pods {
		if p.Spec.NodeName != "" && !podstate.Ended(p) && slices.Contains(storage.Names(p), c.Name) {
			return nil // its end wakes us
		}
	}
	_, err = api.Mutate(ctx, r.c.Objects, api.PersistentVolumeClaims, c.Namespace, c.Name, api.UpdateOptions{}, func(o *corev1.PersistentVolumeClaim) (bool, error) {
		if o.UID != c.UID {
			return false, nil
		}
		o.Finalizers = slices.DeleteFunc(o.Finalizers, func(f string) bool { return f == api.FinalizerClaim })
		return true, nil
	})
	return gone(err)
}

func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Ensure makes the class of claims that name none.
func Ensure(ctx context.Context, o api.Objects) error {
	if _, err := o.Get(ctx, api.StorageClasses, "", DefaultClass); err == nil {
		return nil
	}
	_, err := o.Create(ctx, &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: DefaultClass, Annotations: map[string]string{api.AnnotationDefaultClass: "true"}},
		Provisioner: api.LocalProvisioner, ReclaimPolicy: new(corev1.PersistentVolumeReclaimDelete), VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer),
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create storage class %s: %w", DefaultClass, err)
	}
	return nil
}
