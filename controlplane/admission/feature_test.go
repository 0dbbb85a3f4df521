package admission

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podsnap/podsnap/api"
)

// TestFeatures goes through the small features of pods: docs/pods.md has the list. What
// is not done is refused by the name of its field.
func TestFeatures(t *testing.T) {
	pod := func(fields string) string { return podWith(fields) }
	security := func(fields string) string { return podWith(`securityContext: {` + fields + `}`) }
	mine := func(fields string) string { return container(`securityContext: {` + fields + `}`) }
	disk := func(source string) string { return podWith(`volumes: [{name: v, ` + source + `}]`) }
	mount := func(fields string) string {
		return "metadata: {name: p}\nspec: {containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v, " + fields + "}]}], volumes: [{name: v}]}"
	}
	for _, c := range []struct{ text, want string }{
		{pod(`runtimeClassName: runc`), ""},
		{pod(`runtimeClassName: gvisor`), "spec.runtimeClassName: NotSupported"},
		{pod(`overhead: {cpu: 1}`), "spec.overhead: Forbidden"},
		{pod(`hostUsers: true`), ""},
		{pod(`hostUsers: false`), "spec.hostUsers: Forbidden"},
		{pod(`resourceClaims: [{name: c}]`), "spec.resourceClaims: Forbidden"},
		{pod(`resources: {limits: {cpu: 1}}`), "spec.resources: Forbidden"},
		{pod(`hostnameOverride: h`), "spec.hostnameOverride: Forbidden"},
		{pod(`os: {name: linux}`), ""},
		{pod(`os: {name: windows}`), "spec.os.name: NotSupported"},

		{security(`supplementalGroups: [1], supplementalGroupsPolicy: Strict, fsGroup: 2, fsGroupChangePolicy: OnRootMismatch`), ""},
		{security(`supplementalGroupsPolicy: Some`), "spec.securityContext.supplementalGroupsPolicy: NotSupported"},
		{security(`fsGroupChangePolicy: Never`), "spec.securityContext.fsGroupChangePolicy: NotSupported"},
		{security(`seccompProfile: {type: RuntimeDefault}, appArmorProfile: {type: Unconfined}`), ""},
		{security(`seccompProfile: {type: Localhost}`), "spec.securityContext.seccompProfile.type: NotSupported"},
		{security(`seccompProfile: {type: Unconfined, localhostProfile: a.json}`), "spec.securityContext.seccompProfile.localhostProfile: Forbidden"},
		{security(`appArmorProfile: {type: RuntimeDefault}`), "spec.securityContext.appArmorProfile.type: NotSupported"},
		{security(`windowsOptions: {}`), "spec.securityContext.windowsOptions: Forbidden"},
		{security(`sysctls: [{name: net.ipv4.tcp_syncookies, value: "0"}, {name: kernel/shm_rmid_forced, value: "1"}]`), ""},
		{security(`sysctls: [{name: kernel.panic, value: "1"}]`), "spec.securityContext.sysctls[0].name: NotSupported"},
		{security(`sysctls: [{name: kernel.shm_rmid_forced, value: "1"}, {name: kernel.shm_rmid_forced, value: "0"}]`), "spec.securityContext.sysctls[1].name: Duplicate"},
		{pod(`hostNetwork: true, securityContext: {sysctls: [{name: net.ipv4.tcp_syncookies, value: "0"}]}`), "spec.securityContext.sysctls[0].name: Invalid"},
		{pod(`hostIPC: true, securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: "0"}]}`), "spec.securityContext.sysctls[0].name: Invalid"},

		{mine(`procMount: Default, seccompProfile: {type: Unconfined}`), ""},
		{mine(`procMount: Unmasked`), "spec.containers[0].securityContext.procMount: NotSupported"},
		{mine(`seccompProfile: {type: Localhost}`), "spec.containers[0].securityContext.seccompProfile.type: NotSupported"},
		{mine(`appArmorProfile: {type: Localhost, localhostProfile: p}`), "spec.containers[0].securityContext.appArmorProfile.type: NotSupported"},

		{disk(`hostPath: {path: /a}`), ""},
		{disk(`hostPath: {path: /a, type: Magic}`), "spec.volumes[0].hostPath.type: NotSupported"},
		{disk(`emptyDir: {medium: HugePages}`), "spec.volumes[0].emptyDir.medium: NotSupported"},
		{disk(`nfs: {server: s, path: /}`), "spec.volumes[0].nfs: Forbidden"},
		{disk(`csi: {driver: d}`), "spec.volumes[0].csi: Forbidden"},
		{disk(`ephemeral: {}`), "spec.volumes[0].ephemeral: Forbidden"},
		{disk(`image: {reference: i}`), "spec.volumes[0].image: Forbidden"},
		{disk(`downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}, {path: c, resourceFieldRef: {containerName: c, resource: limits.cpu}}]}`), ""},
		{disk(`downwardAPI: {items: [{path: l, fieldRef: {fieldPath: spec.nodeName}}]}`), "spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath: NotSupported"},
		{
			disk(`downwardAPI: {items: [{path: ../l, resourceFieldRef: {resource: limits.gpu}}]}`),
			"spec.volumes[0].downwardAPI.items[0].path: Invalid spec.volumes[0].downwardAPI.items[0].resourceFieldRef.containerName: Required spec.volumes[0].downwardAPI.items[0].resourceFieldRef.resource: NotSupported",
		},
		{disk(`projected: {sources: [{secret: {name: s}}, {configMap: {name: m}}, {downwardAPI: {}}, {serviceAccountToken: {path: t}}]}`), ""},
		{disk(`projected: {sources: [{clusterTrustBundle: {path: t}}]}`), "spec.volumes[0].projected.sources[0].clusterTrustBundle: Forbidden"},

		{container(`volumeDevices: [{name: v, devicePath: /dev/x}]`), "spec.containers[0].volumeDevices: Forbidden"},
		{container(`resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]`), ""},
		{container(`resizePolicy: [{resourceName: gpu, restartPolicy: Sometimes}]`), "spec.containers[0].resizePolicy[0].resourceName: NotSupported spec.containers[0].resizePolicy[0].restartPolicy: NotSupported"},
		{container(`restartPolicy: Never`), ""},
		{container(`restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]`), "spec.containers[0].restartPolicyRules: Forbidden"},
		{container(`resources: {claims: [{name: c}]}`), "spec.containers[0].resources.claims: Forbidden"},
		{container(`livenessProbe: {exec: {command: [a]}, terminationGracePeriodSeconds: 3}`), ""},
		{container(`readinessProbe: {exec: {command: [a]}, terminationGracePeriodSeconds: 3}`), "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid"},
		{container(`env: [{name: A, valueFrom: {resourceFieldRef: {resource: requests.memory}}}]`), ""},
		{container(`env: [{name: A, valueFrom: {resourceFieldRef: {resource: memory}}}]`), "spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: NotSupported"},
		{mount(`mountPropagation: HostToContainer, recursiveReadOnly: IfPossible`), ""},
		{mount(`mountPropagation: Bidirectional`), "spec.containers[0].volumeMounts[0].mountPropagation: Forbidden"},
		{mount(`recursiveReadOnly: Enabled`), "spec.containers[0].volumeMounts[0].recursiveReadOnly: NotSupported"},
	} {
		got := ""
		for _, cause := range causes(t, Admit(t.Context(), "", api.Pods, nil, read(t, api.Pods, c.text), "")) {
			if got != "" {
				got += " "
			}
			got += cause
		}
		if got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.text, got, c.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	text := `metadata: {name: x}
spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {securityContext: {seLinuxOptions: {level: l}},
  initContainers: [{name: i, image: i, securityContext: {seLinuxOptions: {level: l}}}], containers: [{name: c, image: i, resources: {limits: {ephemeral-storage: 1Gi}}}]}}}`
	want := []string{
		"spec.template.spec.securityContext.seLinuxOptions: has no effect: containers get no SELinux label",
		"spec.template.spec.initContainers[0].securityContext.seLinuxOptions: has no effect: containers get no SELinux label",
		"spec.template.spec.containers[0].resources.limits[ephemeral-storage]: is not enforced: the sizeLimit of an emptyDir is",
	}
	for _, r := range []*api.Resource{api.Deployments, api.StatefulSets, api.DaemonSets, api.ReplicaSets} {
		if d := cmp.Diff(want, Warnings(read(t, r, text))); d != "" {
			t.Errorf("%s (-want +got):\n%s", r.Kind, d)
		}
	}
	if got := Warnings(read(t, api.Pods, podWith(``))); got != nil {
		t.Errorf("a plain pod: %q", got)
	}
}
