package pod

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// Labels of sandboxes and containers, known from Kubernetes.
const (
	labelPod       = "io.kubernetes.pod.name"
	labelNamespace = "io.kubernetes.pod.namespace"
	labelUID       = "io.kubernetes.pod.uid"
	labelContainer = "io.kubernetes.container.name"
)

func labels(p *corev1.Pod, container string) map[string]string {
	l := map[string]string{labelPod: p.Name, labelNamespace: p.Namespace, labelUID: string(p.UID)}
	if container != "" {
		l[labelContainer] = container
	}
	return l
}

// sandboxSpec is what the engine has to make for a pod.
func sandboxSpec(p *corev1.Pod, hostname string, pids int64) runtime.SandboxSpec {
	s := runtime.SandboxSpec{
		UID: p.UID, Namespace: p.Namespace, Name: p.Name, Hostname: hostname,
		HostNetwork: p.Spec.HostNetwork, NoNetwork: alone(p), Segment: segment(p), HostPID: p.Spec.HostPID, HostIPC: p.Spec.HostIPC, SharePID: shares(p), Class: classOf(p),
		Labels: labels(p, ""), Resources: podResources(p),
	}
	if f := p.Labels[api.LabelFunction]; f != "" {
		s.Owner = p.Namespace + "/" + f
	}
	s.Resources.Pids = pids * int64(len(p.Spec.InitContainers)+len(p.Spec.Containers))
	if sc := p.Spec.SecurityContext; sc != nil && len(sc.Sysctls) > 0 {
		s.Sysctls = map[string]string{}
		for _, c := range sc.Sysctls {
			s.Sysctls[strings.ReplaceAll(c.Name, "/", ".")] = c.Value
		}
	}
	return s
}

// shares tells whether the containers of a pod see one another's processes.
func shares(p *corev1.Pod) bool {
	return p.Spec.ShareProcessNamespace != nil && *p.Spec.ShareProcessNamespace
}

// segment is what pods share that are to hear one another's broadcast: those of one
// namespace, on one node.
func segment(p *corev1.Pod) string {
	if p.Annotations[api.AnnotationNetwork] != api.NetworkBridge || p.Spec.HostNetwork {
		return ""
	}
	return p.Namespace
}

// alone is a pod that has no network.
func alone(p *corev1.Pod) bool { return p.Annotations[api.AnnotationNetwork] == api.NetworkNone }

// podResources bounds the whole pod: what runs at the same time is added up,
// and an init container alone may need more. One container without a limit
// leaves the pod without.
func podResources(p *corev1.Pod) runtime.Resources {
	var sum, most runtime.Resources
	cpu, memory := true, true
	for c, init := range all(&p.Spec) {
		r := resources(c, 0)
		cpu, memory = cpu && r.CPUQuota > 0, memory && r.Memory > 0
		if init && !isSidecar(c) {
			most = runtime.Resources{
				CPUShares: max(most.CPUShares, r.CPUShares), CPUQuota: max(most.CPUQuota, r.CPUQuota), Memory: max(most.Memory, r.Memory),
			}
			continue
		}
		sum.CPUShares += r.CPUShares
		sum.CPUQuota += r.CPUQuota
		sum.Memory += r.Memory
	}
	out := runtime.Resources{CPUShares: max(sum.CPUShares, most.CPUShares)}
	if cpu {
		out.CPUQuota = max(sum.CPUQuota, most.CPUQuota)
	}
	if memory {
		out.Memory = max(sum.Memory, most.Memory)
	}
	return out
}

func resources(c *corev1.Container, pids int64) runtime.Resources {
	r := runtime.Resources{CPUShares: 2, Pids: pids} // the least the kernel takes
	request, ok := c.Resources.Requests[corev1.ResourceCPU]
	if !ok {
		request = c.Resources.Limits[corev1.ResourceCPU]
	}
	r.CPUShares = max(r.CPUShares, milli(request)*1024/1000)
	if limit := milli(c.Resources.Limits[corev1.ResourceCPU]); limit > 0 {
		r.CPUQuota = max(limit*100, 1000) // of 100 ms; the kernel's least is 1 ms
	}
	r.Memory = c.Resources.Limits.Memory().Value()
	return r
}

func milli(q resource.Quantity) int64 {
	return min(q.MilliValue(), math.MaxInt64/1024)
}

// security confines a container. Functions start from nothing, plain pods from
// what images expect of Kubernetes.
func security(p *corev1.Pod, c *corev1.Container) runtime.Security {
	plain := !isFunction(p)
	s := runtime.Security{DefaultCapabilities: plain, AllowEscalation: plain}
	if ps := p.Spec.SecurityContext; ps != nil {
		s.User, s.Group = ps.RunAsUser, ps.RunAsGroup
		s.RunAsNonRoot = ps.RunAsNonRoot != nil && *ps.RunAsNonRoot
		s.Supplemental = append(s.Supplemental, ps.SupplementalGroups...)
		if ps.FSGroup != nil {
			s.Supplemental = append(s.Supplemental, *ps.FSGroup)
		}
		s.OwnGroups = ps.SupplementalGroupsPolicy != nil && *ps.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict
		s.SeccompUnconfined = unconfined(ps.SeccompProfile)
	}
	cs := c.SecurityContext
	if cs == nil {
		return s
	}
	if cs.RunAsUser != nil {
		s.User = cs.RunAsUser
	}
	if cs.RunAsGroup != nil {
		s.Group = cs.RunAsGroup
	}
	if cs.RunAsNonRoot != nil {
		s.RunAsNonRoot = *cs.RunAsNonRoot
	}
	if cs.AllowPrivilegeEscalation != nil {
		s.AllowEscalation = *cs.AllowPrivilegeEscalation
	}
	if cs.SeccompProfile != nil {
		s.SeccompUnconfined = unconfined(cs.SeccompProfile)
	}
	s.ReadOnlyRoot = cs.ReadOnlyRootFilesystem != nil && *cs.ReadOnlyRootFilesystem
	s.Privileged = cs.Privileged != nil && *cs.Privileged
	if cs.Capabilities != nil {
		for _, n := range cs.Capabilities.Add {
			s.AddCapabilities = append(s.AddCapabilities, string(n))
		}
		for _, n := range cs.Capabilities.Drop {
			s.DropCapabilities = append(s.DropCapabilities, string(n))
		}
	}
	return s
}

func unconfined(p *corev1.SeccompProfile) bool {
	return p != nil && p.Type == corev1.SeccompProfileTypeUnconfined
}

// pullPolicy is the container's own; admission fills it in.
func pullPolicy(c *corev1.Container) corev1.PullPolicy {
	if c.ImagePullPolicy != "" {
		return c.ImagePullPolicy
	}
	return corev1.PullIfNotPresent
}

func find(p *corev1.Pod, name string) *corev1.Container {
	for c := range all(&p.Spec) {
		if c.Name == name {
			return c
		}
	}
	for c := range ephemeral(&p.Spec) {
		if c.Name == name {
			return c
		}
	}
	return nil
}
