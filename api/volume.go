package api

import (
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// NodeOfVolume is the one node on which a volume can be used, by the name in its
// label kubernetes.io/hostname, which is the node's own; "" when there may be several.
func NodeOfVolume(v *corev1.PersistentVolume) string {
	if v.Spec.NodeAffinity == nil || v.Spec.NodeAffinity.Required == nil {
		return ""
	}
	terms := v.Spec.NodeAffinity.Required.NodeSelectorTerms
	if len(terms) != 1 || len(terms[0].MatchExpressions) != 1 || len(terms[0].MatchFields) != 0 {
		return ""
	}
	e := terms[0].MatchExpressions[0]
	if e.Key != corev1.LabelHostname || e.Operator != corev1.NodeSelectorOpIn || len(e.Values) != 1 {
		return ""
	}
	return e.Values[0]
}

// IsDiskOf tells whether a volume lies on the disk of a node, where LocalProvisioner
// has made it.
func IsDiskOf(v *corev1.PersistentVolume, node string) bool {
	return v.Spec.CSI != nil && v.Spec.CSI.Driver == LocalProvisioner && NodeOfVolume(v) == node
}

// FolderOfVolume is the name of the folder of a volume that LocalProvisioner has made:
// its handle, which is never a way out of where folders are.
func FolderOfVolume(v *corev1.PersistentVolume) (string, error) {
	if v.Spec.CSI == nil || v.Spec.CSI.VolumeHandle == "" || strings.HasPrefix(v.Spec.CSI.VolumeHandle, ".") ||
		!filepath.IsLocal(v.Spec.CSI.VolumeHandle) || filepath.Base(v.Spec.CSI.VolumeHandle) != v.Spec.CSI.VolumeHandle {
		return "", fmt.Errorf("volume %s: its handle can't name a folder", v.Name)
	}
	return v.Spec.CSI.VolumeHandle, nil
}
