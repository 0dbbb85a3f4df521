package admission

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
)

// protect gives new claims and volumes the finalizers that keep them while they are in use.
func protect(obj api.Object) {
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		finalize(o, api.FinalizerClaim)
	case *corev1.PersistentVolume:
		finalize(o, api.FinalizerVolume)
	}
}

func finalize(o metav1.Object, finalizer string) {
	if f := o.GetFinalizers(); !slices.Contains(f, finalizer) {
		o.SetFinalizers(append(slices.Clone(f), finalizer))
	}
}

func defaultClaim(c *corev1.PersistentVolumeClaim) {
	orNew(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	or(&c.Status.Phase, corev1.ClaimPending)
}

func defaultVolumeObject(v *corev1.PersistentVolume) {
	orNew(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	or(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	or(&v.Status.Phase, corev1.VolumePending)
	if h := v.Spec.HostPath; h != nil {
		orNew(&h.Type, corev1.HostPathUnset)
	}
}

func defaultStorageClass(c *storagev1.StorageClass) {
	orNew(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
	orNew(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
}

func validateClaim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	return validateClaimSpec(&c.Spec, field.NewPath("spec"))
}

func validateClaimSpec(s *corev1.PersistentVolumeClaimSpec, p *field.Path) field.ErrorList {
	errs := validateAccessModes(s.AccessModes, p.Child("accessModes"))
	errs = append(errs, validateVolumeMode(s.VolumeMode, p.Child("volumeMode"))...)
	errs = append(errs, validateSize(s.Resources.Requests, p.Child("resources", "requests"))...)
	if s.StorageClassName != nil && *s.StorageClassName != "" {
		errs = append(errs, invalid(p.Child("storageClassName"), *s.StorageClassName, validation.IsDNS1123Subdomain(*s.StorageClassName))...)
	}
	if s.VolumeName != "" {
		errs = append(errs, invalid(p.Child("volumeName"), s.VolumeName, validation.IsDNS1123Subdomain(s.VolumeName))...)
	}
	if s.Selector != nil {
		errs = append(errs, metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{}, p.Child("selector"))...)
	}
	for name, there := range map[string]bool{"dataSource": s.DataSource != nil, "dataSourceRef": s.DataSourceRef != nil} {
		if there {
			errs = append(errs, field.Forbidden(p.Child(name), "volumes are made empty: there are no snapshots or clones"))
		}
	}
	return errs
}

func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, p *field.Path) field.ErrorList {
	if len(modes) == 0 {
		return field.ErrorList{field.Required(p, "at least 1 access mode is required")}
	}
	var errs field.ErrorList
	for i, m := range modes {
		errs = append(errs, oneOf(m, p.Index(i), corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod)...)
	}
	if len(modes) > 1 && slices.Contains(modes, corev1.ReadWriteOncePod) {
		errs = append(errs, field.Forbidden(p, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// validateVolumeMode checks what a volume looks like in a container.
func validateVolumeMode(m *corev1.PersistentVolumeMode, p *field.Path) field.ErrorList {
	if m == nil || *m == corev1.PersistentVolumeFilesystem {
		return nil
	}
	return field.ErrorList{field.NotSupported(p, *m, []corev1.PersistentVolumeMode{corev1.PersistentVolumeFilesystem})}
}

func validateSize(l corev1.ResourceList, p *field.Path) field.ErrorList {
	q, ok := l[corev1.ResourceStorage]
	switch at := p.Key(string(corev1.ResourceStorage)); {
	case !ok:
		return field.ErrorList{field.Required(at, "the size of the volume, such as 1Gi")}
	case q.Sign() <= 0:
		return field.ErrorList{field.Invalid(at, q.String(), "must be greater than zero")}
	}
	return nil
}

// validateClaimUpdate lets a claim be bound once and its class be filled in; what it
// asks for stays.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	was, now := old.DeepCopy(), c.Spec.DeepCopy()
	defaultClaim(was)
	if was.Spec.VolumeName == "" {
		now.VolumeName = ""
	}
	if was.Spec.StorageClassName == nil {
		now.StorageClassName = nil
	}
	p := field.NewPath("spec")
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(now.Resources, was.Spec.Resources) {
		errs = append(errs, field.Forbidden(p.Child("resources"), "volumes cannot be resized: make another claim and copy"))
		now.Resources = was.Spec.Resources
	}
	for _, f := range changed(*now, was.Spec) {
		errs = append(errs, field.Forbidden(p.Child(f), "spec is immutable after creation; only volumeName and storageClassName may be filled in"))
	}
	return errs
}

func validateVolumeObject(v *corev1.PersistentVolume) field.ErrorList {
	p := field.NewPath("spec")
	errs := validateAccessModes(v.Spec.AccessModes, p.Child("accessModes"))
	errs = append(errs, validateVolumeMode(v.Spec.VolumeMode, p.Child("volumeMode"))...)
	errs = append(errs, validateSize(v.Spec.Capacity, p.Child("capacity"))...)
	errs = append(errs, oneOf(v.Spec.PersistentVolumeReclaimPolicy, p.Child("persistentVolumeReclaimPolicy"), corev1.PersistentVolumeReclaimRetain, corev1.PersistentVolumeReclaimDelete)...)
	if c := v.Spec.StorageClassName; c != "" {
		errs = append(errs, invalid(p.Child("storageClassName"), c, validation.IsDNS1123Subdomain(c))...)
	}
	if c := v.Spec.ClaimRef; c != nil {
		errs = append(errs, required(c.Namespace, p.Child("claimRef", "namespace"))...)
		errs = append(errs, required(c.Name, p.Child("claimRef", "name"))...)
	}
	if a := v.Spec.NodeAffinity; a != nil {
		if a.Required == nil || len(a.Required.NodeSelectorTerms) == 0 {
			errs = append(errs, field.Required(p.Child("nodeAffinity", "required", "nodeSelectorTerms"), "must have at least one node selector term"))
		} else {
			for i, t := range a.Required.NodeSelectorTerms {
				errs = append(errs, validateNodeTerm(t, p.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i))...)
			}
		}
	}
	return append(errs, validateSource(v, p)...)
}

// validateSource wants exactly one of the sources that a node agent mounts.
func validateSource(v *corev1.PersistentVolume, p *field.Path) field.ErrorList {
	s := v.Spec.PersistentVolumeSource
	kinds := changed(s, corev1.PersistentVolumeSource{})
	switch {
	case len(kinds) == 0:
		return field.ErrorList{field.Required(p, "must specify a volume type: hostPath or local")}
	case len(kinds) > 1:
		return field.ErrorList{field.Forbidden(p.Child(kinds[1]), "may not specify more than 1 volume type, found "+strings.Join(kinds, ", "))}
	}
	at := p.Child(kinds[0])
	switch {
	case s.HostPath != nil:
		return path(s.HostPath.Path, at.Child("path"))
	case s.Local != nil:
		errs := path(s.Local.Path, at.Child("path"))
		if v.Spec.NodeAffinity == nil {
			errs = append(errs, field.Required(p.Child("nodeAffinity"), "a local volume is on one node"))
		}
		if s.Local.FSType != nil {
			errs = append(errs, field.Forbidden(at.Child("fsType"), "only folders can be used, not block devices"))
		}
		return errs
	case s.CSI != nil && s.CSI.Driver == api.LocalProvisioner:
		errs := invalid(at.Child("volumeHandle"), s.CSI.VolumeHandle, validation.IsDNS1123Subdomain(s.CSI.VolumeHandle))
		if v.Spec.NodeAffinity == nil {
			errs = append(errs, field.Required(p.Child("nodeAffinity"), "a local volume is on one node"))
		}
		return errs
	case s.CSI != nil:
		return field.ErrorList{field.NotSupported(at.Child("driver"), s.CSI.Driver, []string{api.LocalProvisioner})}
	}
	return field.ErrorList{field.Forbidden(at, "volumes of this type are not supported: use hostPath or local")}
}

func path(v string, p *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	if !strings.HasPrefix(v, "/") {
		return field.ErrorList{field.Invalid(p, v, "must be an absolute path")}
	}
	return noBackstep(v, p)
}

func validateVolumeObjectUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	p := field.NewPath("spec")
	was := old.DeepCopy()
	defaultVolumeObject(was)
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(v.Spec.PersistentVolumeSource, was.Spec.PersistentVolumeSource) {
		errs = append(errs, field.Forbidden(p.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"))
	}
	errs = append(errs, immutable(v.Spec.VolumeMode, was.Spec.VolumeMode, p.Child("volumeMode"))...)
	if was.Spec.NodeAffinity != nil {
		errs = append(errs, immutable(v.Spec.NodeAffinity, was.Spec.NodeAffinity, p.Child("nodeAffinity"))...)
	}
	return errs
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := required(c.Provisioner, field.NewPath("provisioner"))
	errs = append(errs, oneOf(*c.ReclaimPolicy, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	errs = append(errs, oneOf(*c.VolumeBindingMode, field.NewPath("volumeBindingMode"), storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	if c.AllowVolumeExpansion != nil && *c.AllowVolumeExpansion {
		errs = append(errs, field.Invalid(field.NewPath("allowVolumeExpansion"), true, "volumes cannot be resized"))
	}
	if len(c.AllowedTopologies) > 0 {
		errs = append(errs, field.Forbidden(field.NewPath("allowedTopologies"), "is not supported: nodes are chosen by what pods ask of them"))
	}
	if c.Provisioner == api.LocalProvisioner && len(c.Parameters) > 0 {
		errs = append(errs, field.Forbidden(field.NewPath("parameters"), fmt.Sprintf("%s has none", api.LocalProvisioner)))
	}
	return errs
}

func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	was := old.DeepCopy()
	defaultStorageClass(was)
	errs := immutable(c.Provisioner, was.Provisioner, field.NewPath("provisioner"))
	errs = append(errs, immutable(c.Parameters, was.Parameters, field.NewPath("parameters"))...)
	errs = append(errs, immutable(c.ReclaimPolicy, was.ReclaimPolicy, field.NewPath("reclaimPolicy"))...)
	return append(errs, immutable(c.VolumeBindingMode, was.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
}
