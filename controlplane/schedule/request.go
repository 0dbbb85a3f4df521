package schedule

import (
	"strings"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/storage"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// The size that a pod without requests has in scores (not in filters), as in
// Kubernetes' scheduler: a tenth of a core, 200 MiB.
const (
	leastCPU    = 100
	leastMemory = 200 << 20
)

// resources are amounts: cpu in thousandths of a core, the others in bytes or
// pieces.
type resources struct {
	cpu, memory, disk, pods int64
	other                   map[corev1.ResourceName]int64
}

func resourcesOf(l corev1.ResourceList) resources {
	var r resources
	for name, q := range l {
		switch name {
		case corev1.ResourceCPU:
			r.cpu = q.MilliValue()
		case corev1.ResourceMemory:
			r.memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.disk = q.Value()
		case corev1.ResourcePods:
		default:
			if r.other == nil {
				r.other = map[corev1.ResourceName]int64{}
			}
			r.other[name] = q.Value()
		}
	}
	return r
}

func (r *resources) add(o resources, sign int64) {
	r.cpu += sign * o.cpu
	r.memory += sign * o.memory
	r.disk += sign * o.disk
	r.pods += sign * o.pods
	for name, v := range o.other {
		if r.other == nil {
			r.other = map[corev1.ResourceName]int64{}
		}
		r.other[name] += sign * v
	}
}

// port is a host port as it can clash.
type port struct {
	ip       string // "" is every address
	protocol corev1.Protocol
	number   int32
}

// group is the set of pods that should be spread over nodes: a function's, or
// those of one owner.
type group struct{ namespace, name string }

// request is what a pod asks for, worked out once.
type request struct {
	pod          *corev1.Pod
	priority     int32
	res, wish    resources
	ports        []port
	group        group
	selector     *nodeaffinity.RequiredNodeAffinity // nil is any node
	preferred    *nodeaffinity.PreferredSchedulingTerms
	affinity     []term // required
	antiAffinity []term // required
	wishes       []weighted
	spreads      []spread
	images       []string
	ask          *storage.Ask // of its claims
}

func newRequest(pod *corev1.Pod) *request {
	r := &request{pod: pod, priority: Priority(pod), res: resourcesOf(resource.PodRequests(pod, resource.PodResourcesOptions{}))}
	r.res.pods = 1
	r.wish = resources{cpu: r.res.cpu, memory: r.res.memory}
	if r.wish.cpu == 0 {
		r.wish.cpu = leastCPU
	}
	if r.wish.memory == 0 {
		r.wish.memory = leastMemory
	}
	r.group = groupOf(pod)
	r.spreads = spreads(pod)
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.HostPort > 0 {
				r.ports = append(r.ports, portOf(p))
			}
		}
		r.images = append(r.images, pod.Spec.Containers[i].Image)
	}
	if a := pod.Spec.Affinity; a != nil {
		if a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
			// Terms that don't parse were refused at the API; here they prefer nothing.
			r.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		r.affinity, r.antiAffinity, r.wishes = terms(pod, a)
	}
	if len(pod.Spec.NodeSelector) > 0 || pod.Spec.Affinity != nil && pod.Spec.Affinity.NodeAffinity != nil {
		s := nodeaffinity.GetRequiredNodeAffinity(pod)
		r.selector = &s
	}
	return r
}

func groupOf(pod *corev1.Pod) group {
	if f := pod.Labels[api.LabelFunction]; f != "" {
		return group{pod.Namespace, f}
	}
	if o := metav1.GetControllerOfNoCopy(pod); o != nil {
		return group{pod.Namespace, string(o.UID)}
	}
	return group{}
}

func portOf(p corev1.ContainerPort) port {
	o := port{ip: p.HostIP, protocol: p.Protocol, number: p.HostPort}
	if o.ip == "0.0.0.0" || o.ip == "::" {
		o.ip = ""
	}
	if o.protocol == "" {
		o.protocol = corev1.ProtocolTCP
	}
	return o
}

// taken reports whether port p is in use among used.
func taken(used map[port]int, p port) bool {
	if len(used) == 0 {
		return false
	}
	if p.ip != "" {
		return used[p] > 0 || used[port{"", p.protocol, p.number}] > 0
	}
	for u := range used {
		if u.protocol == p.protocol && u.number == p.number {
			return true
		}
	}
	return false
}

// hasImage reports whether an image is on the node under the name the pod uses
// or the full one that the node's store gives it.
func hasImage(on map[string]bool, image string) bool {
	if len(on) == 0 {
		return false
	}
	if on[image] {
		return true
	}
	if !strings.Contains(image[strings.LastIndexByte(image, '/')+1:], ":") && !strings.Contains(image, "@") {
		image += ":latest"
	}
	return on[image] || on["docker.io/"+image] || on["docker.io/library/"+image]
}
