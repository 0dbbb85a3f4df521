package admission

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
)

func TestInvalidStateful(t *testing.T) {
	const data = `volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]`
	for _, c := range []struct {
		name string
		r    *api.Resource
		text string
		want []string
	}{
		{"a name with a dot", api.StatefulSets, `{metadata: {name: a.b}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`, []string{"metadata.name: Invalid"}},
		{"no such policies", api.StatefulSets, stateful(`podManagementPolicy: Any, persistentVolumeClaimRetentionPolicy: {whenScaled: Keep}, updateStrategy: {type: Never}`, ``), []string{"spec.persistentVolumeClaimRetentionPolicy.whenScaled: NotSupported", "spec.podManagementPolicy: NotSupported", "spec.updateStrategy.type: NotSupported"}},
		{"negative numbers", api.StatefulSets, stateful(`replicas: -1, minReadySeconds: -1, ordinals: {start: -1}, updateStrategy: {rollingUpdate: {partition: -1, maxUnavailable: 0}}`, ``), []string{"spec.minReadySeconds: Invalid", "spec.ordinals.start: Invalid", "spec.replicas: Invalid", "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid", "spec.updateStrategy.rollingUpdate.partition: Invalid"}},
		{"a partition without an update", api.StatefulSets, stateful(`updateStrategy: {type: OnDelete, rollingUpdate: {partition: 1}}`, ``), []string{"spec.updateStrategy.rollingUpdate: Invalid"}},
		{"a mount of no volume", api.StatefulSets, stateful(data, `volumeMounts: [{name: other, mountPath: /data}]`), []string{"spec.template.spec.containers[0].volumeMounts[0].name: NotFound"}},
		{"no mode, no size", api.PersistentVolumeClaims, `{metadata: {name: c}}`, []string{"spec.accessModes: Required", "spec.resources.requests[storage]: Required"}},
		{"a mode that is for one pod, and another one", api.PersistentVolumeClaims, `{metadata: {name: c}, spec: {accessModes: [ReadWriteOncePod, ReadOnlyMany], volumeMode: Block, resources: {requests: {storage: "0"}}}}`, []string{"spec.accessModes: Forbidden", "spec.resources.requests[storage]: Invalid", "spec.volumeMode: NotSupported"}},
		{"a copy", api.PersistentVolumeClaims, claim(`dataSource: {kind: PersistentVolumeClaim, name: x}`), []string{"spec.dataSource: Forbidden"}},
		{"no source", api.PersistentVolumes, volume(``), []string{"spec: Required"}},
		{"two sources", api.PersistentVolumes, volume(`hostPath: {path: /a}, local: {path: /b}`), []string{"spec.local: Forbidden"}},
		{"another source", api.PersistentVolumes, volume(`nfs: {server: a, path: /b}`), []string{"spec.nfs: Forbidden"}},
		{"another driver", api.PersistentVolumes, volume(`csi: {driver: x, volumeHandle: h}`), []string{"spec.csi.driver: NotSupported"}},
		{"a handle that leads out", api.PersistentVolumes, volume(`csi: {driver: podsnap.dev/local, volumeHandle: ../x}`), []string{"spec.csi.volumeHandle: Invalid", "spec.nodeAffinity: Required"}},
		{"a local one of no node", api.PersistentVolumes, volume(`local: {path: a/../b}`), []string{"spec.local.path: Invalid", "spec.nodeAffinity: Required"}},
		{"a way that was given up", api.PersistentVolumes, volume(`hostPath: {path: /a}, persistentVolumeReclaimPolicy: Recycle`), []string{"spec.persistentVolumeReclaimPolicy: NotSupported"}},
		{"a class of nobody", api.StorageClasses, `{metadata: {name: x}}`, []string{"provisioner: Required"}},
		{"a class that grows", api.StorageClasses, `{metadata: {name: x}, provisioner: podsnap.dev/local, allowVolumeExpansion: true, parameters: {a: b}}`, []string{"allowVolumeExpansion: Invalid", "parameters: Forbidden"}},
	} {
		got := causes(t, Admit(t.Context(), "", c.r, nil, read(t, c.r, c.text), ""))
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

func TestImmutableStateful(t *testing.T) {
	for _, c := range []struct {
		name     string
		r        *api.Resource
		old, now string
		want     []string
	}{
		{"what may change", api.StatefulSets, stateful(``, ``), stateful(`replicas: 3, ordinals: {start: 1}, updateStrategy: {type: OnDelete}, revisionHistoryLimit: 1, persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}, minReadySeconds: 1`, `command: [x]`), nil},
		{"what may not", api.StatefulSets, stateful(``, ``), stateful(`serviceName: x, podManagementPolicy: Parallel, volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1}}}}]`, ``), []string{"spec.podManagementPolicy: Forbidden", "spec.serviceName: Forbidden", "spec.volumeClaimTemplates: Forbidden"}},
		{"a claim is bound", api.PersistentVolumeClaims, claim(``), claim(`volumeName: v, storageClassName: c`), nil},
		{"a claim is bound again", api.PersistentVolumeClaims, claim(`volumeName: v, storageClassName: c`), claim(`volumeName: w, storageClassName: d`), []string{"spec.storageClassName: Forbidden", "spec.volumeName: Forbidden"}},
		{"a claim grows", api.PersistentVolumeClaims, claim(``), `{metadata: {name: c}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}}}`, []string{"spec.resources: Forbidden"}},
		{"a volume moves", api.PersistentVolumes, volume(`hostPath: {path: /a}`), volume(`hostPath: {path: /b}`), []string{"spec.persistentvolumesource: Forbidden"}},
		{"a class becomes another one", api.StorageClasses, `{metadata: {name: x}, provisioner: a}`, `{metadata: {name: x}, provisioner: b, reclaimPolicy: Retain, volumeBindingMode: WaitForFirstConsumer}`, []string{"provisioner: Invalid", "reclaimPolicy: Invalid", "volumeBindingMode: Invalid"}},
		{"a revision becomes another one", api.ControllerRevisions, `{metadata: {name: x}, revision: 1, data: {a: b}}`, `{metadata: {name: x}, revision: 2, data: {a: c}}`, []string{"data: Invalid"}},
	} {
		old, now := read(t, c.r, c.old), read(t, c.r, c.now)
		Default(old)
		if d := cmp.Diff(c.want, causes(t, Admit(t.Context(), "", c.r, old, now, ""))); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

// What is new is protected; an end is not put off by a later write.
func TestProtection(t *testing.T) {
	for r, text := range map[*api.Resource]string{api.PersistentVolumeClaims: claim(``), api.PersistentVolumes: volume(`hostPath: {path: /a}`)} {
		obj := read(t, r, text)
		if err := Admit(t.Context(), "", r, nil, obj, ""); err != nil || len(obj.GetFinalizers()) != 1 {
			t.Errorf("%s: finalizers %v, %v; want one", r, obj.GetFinalizers(), err)
		}
		old := obj.DeepCopyObject().(api.Object)
		obj.SetFinalizers(nil)
		if err := Admit(t.Context(), "", r, old, obj, ""); err != nil || len(obj.GetFinalizers()) != 0 {
			t.Errorf("%s: finalizers %v, %v after they were taken out; want none", r, obj.GetFinalizers(), err)
		}
	}
	c := read(t, api.PersistentVolumeClaims, claim(``)).(*corev1.PersistentVolumeClaim)
	if Default(c); c.Status.Phase != corev1.ClaimPending {
		t.Errorf("a new claim is %q, want Pending", c.Status.Phase)
	}
}
