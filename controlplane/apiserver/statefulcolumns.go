package apiserver

import (
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

func statefulColumns(name, since column) []column {
	return append([]column{
		name,
		col("Ready", "string", func(s *appsv1.StatefulSet) any {
			return fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, count(s.Spec.Replicas))
		}),
		since,
	}, templateColumns(func(s *appsv1.StatefulSet) (*corev1.PodSpec, string) {
		return &s.Spec.Template.Spec, metav1.FormatLabelSelector(s.Spec.Selector)
	})[:2]...)
}

func revisionColumns(name, since column) []column {
	return []column{
		name,
		col("Controller", "string", func(r *appsv1.ControllerRevision) any {
			o := metav1.GetControllerOfNoCopy(r)
			if o == nil {
				return none("")
			}
			return strings.ToLower(o.Kind) + ".apps/" + o.Name
		}),
		col("Revision", "integer", func(r *appsv1.ControllerRevision) any { return int(r.Revision) }),
		since,
	}
}

// storageColumns are those of classes, volumes and claims.
func storageColumns(r *api.Resource, name, since column) []column {
	switch r {
	case api.StorageClasses:
		return classColumns(since)
	case api.PersistentVolumes:
		return volumeColumns(name, since)
	}
	return []column{
		name,
		col("Status", "string", func(c *corev1.PersistentVolumeClaim) any {
			if c.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(c.Status.Phase)
		}),
		col("Volume", "string", func(c *corev1.PersistentVolumeClaim) any { return c.Spec.VolumeName }),
		col("Capacity", "string", func(c *corev1.PersistentVolumeClaim) any { return capacityOf(c.Status.Capacity) }),
		col("Access Modes", "string", func(c *corev1.PersistentVolumeClaim) any { return accessModes(c.Status.AccessModes) }),
		col("StorageClass", "string", func(c *corev1.PersistentVolumeClaim) any { return deref(c.Spec.StorageClassName) }),
		col("VolumeAttributesClass", "string", func(c *corev1.PersistentVolumeClaim) any { return unset(deref(c.Spec.VolumeAttributesClassName)) }),
		since,
		wide("VolumeMode", func(c *corev1.PersistentVolumeClaim) any { return volumeMode(c.Spec.VolumeMode) }),
	}
}

func volumeColumns(name, since column) []column {
	return []column{
		name,
		col("Capacity", "string", func(v *corev1.PersistentVolume) any { return capacityOf(v.Spec.Capacity) }),
		col("Access Modes", "string", func(v *corev1.PersistentVolume) any { return accessModes(v.Spec.AccessModes) }),
		col("Reclaim Policy", "string", func(v *corev1.PersistentVolume) any { return string(v.Spec.PersistentVolumeReclaimPolicy) }),
		col("Status", "string", func(v *corev1.PersistentVolume) any {
			if v.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(v.Status.Phase)
		}),
		col("Claim", "string", func(v *corev1.PersistentVolume) any {
			if c := v.Spec.ClaimRef; c != nil {
				return c.Namespace + "/" + c.Name
			}
			return ""
		}),
		col("StorageClass", "string", func(v *corev1.PersistentVolume) any { return v.Spec.StorageClassName }),
		col("VolumeAttributesClass", "string", func(v *corev1.PersistentVolume) any { return unset(deref(v.Spec.VolumeAttributesClassName)) }),
		col("Reason", "string", func(v *corev1.PersistentVolume) any { return v.Status.Reason }),
		since,
		wide("VolumeMode", func(v *corev1.PersistentVolume) any { return volumeMode(v.Spec.VolumeMode) }),
	}
}

func classColumns(since column) []column {
	name := col("Name", "string", func(c *storagev1.StorageClass) any {
		if c.Annotations[api.AnnotationDefaultClass] == "true" {
			return c.Name + " (default)"
		}
		return c.Name
	})
	name.Format = "name"
	return []column{
		name,
		col("Provisioner", "string", func(c *storagev1.StorageClass) any { return c.Provisioner }),
		col("ReclaimPolicy", "string", func(c *storagev1.StorageClass) any {
			if c.ReclaimPolicy == nil {
				return string(corev1.PersistentVolumeReclaimDelete)
			}
			return string(*c.ReclaimPolicy)
		}),
		col("VolumeBindingMode", "string", func(c *storagev1.StorageClass) any {
			if c.VolumeBindingMode == nil {
				return string(storagev1.VolumeBindingImmediate)
			}
			return string(*c.VolumeBindingMode)
		}),
		col("AllowVolumeExpansion", "string", func(c *storagev1.StorageClass) any {
			return strconv.FormatBool(c.AllowVolumeExpansion != nil && *c.AllowVolumeExpansion)
		}),
		since,
	}
}

func capacityOf(l corev1.ResourceList) string {
	q, ok := l[corev1.ResourceStorage]
	if !ok {
		return ""
	}
	return q.String()
}

// accessModes are their short names, in the order that kubectl users know.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	short := map[corev1.PersistentVolumeAccessMode]string{
		corev1.ReadWriteOnce: "RWO", corev1.ReadOnlyMany: "ROX", corev1.ReadWriteMany: "RWX", corev1.ReadWriteOncePod: "RWOP",
	}
	var out []string
	for _, m := range modes {
		if s := short[m]; s != "" {
			out = append(out, s)
		}
	}
	return strings.Join(out, ",")
}

func volumeMode(m *corev1.PersistentVolumeMode) string {
	if m == nil {
		return string(corev1.PersistentVolumeFilesystem)
	}
	return string(*m)
}

// unset is what kubectl shows for an optional value that is not there.
func unset(s string) string {
	if s == "" {
		return "<unset>"
	}
	return s
}
