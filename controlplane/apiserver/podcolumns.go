package apiserver

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

func podColumns(name, since column) []column {
	return []column{
		name,
		col("Ready", "string", func(p *corev1.Pod) any {
			ready := 0
			for _, s := range p.Status.ContainerStatuses {
				if s.Ready {
					ready++
				}
			}
			return fmt.Sprintf("%d/%d", ready, len(p.Spec.Containers))
		}),
		col("Status", "string", func(p *corev1.Pod) any { return podStatus(p) }),
		{
			metav1.TableColumnDefinition{Name: "Restarts", Type: "string"},
			func(obj api.Object, now time.Time) any { return restarts(obj.(*corev1.Pod), now) },
		},
		since,
		wide("IP", func(p *corev1.Pod) any { return none(p.Status.PodIP) }),
		wide("Node", func(p *corev1.Pod) any { return none(p.Spec.NodeName) }),
		wide("Nominated Node", func(p *corev1.Pod) any { return none(p.Status.NominatedNodeName) }),
		wide("Readiness Gates", func(p *corev1.Pod) any { return gates(p) }),
	}
}

// podStatus is the one word that says how a pod is: the phase, unless a
// container tells more.
func podStatus(p *corev1.Pod) string {
	word := string(p.Status.Phase)
	if p.Status.Reason != "" {
		word = p.Status.Reason
	}
	if s, ok := initStatus(p); ok {
		word = s
	} else if s := containerStatus(p); s != "" {
		word = s
	}
	if p.DeletionTimestamp != nil {
		if p.Status.Reason == "NodeLost" {
			return "Unknown"
		}
		return "Terminating"
	}
	return word
}

// initStatus tells of the first init container that has not done its work.
func initStatus(p *corev1.Pod) (string, bool) {
	for i, s := range p.Status.InitContainerStatuses {
		t, w := s.State.Terminated, s.State.Waiting
		sidecar := i < len(p.Spec.InitContainers) && p.Spec.InitContainers[i].RestartPolicy != nil &&
			*p.Spec.InitContainers[i].RestartPolicy == corev1.ContainerRestartPolicyAlways
		switch {
		case t != nil && t.ExitCode == 0, sidecar && s.Started != nil && *s.Started:
			continue
		case t != nil:
			return "Init:" + ended(t), true
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			return "Init:" + w.Reason, true
		}
		return fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers)), true
	}
	return "", false
}

func containerStatus(p *corev1.Pod) string {
	word, running := "", false
	for _, s := range slices.Backward(p.Status.ContainerStatuses) {
		switch {
		case s.State.Waiting != nil && s.State.Waiting.Reason != "":
			word = s.State.Waiting.Reason
		case s.State.Terminated != nil:
			word = ended(s.State.Terminated)
		case s.Ready && s.State.Running != nil:
			running = true
		}
	}
	if word == "Completed" && running {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return "Running"
			}
		}
		return "NotReady"
	}
	return word
}

func ended(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return "Signal:" + strconv.Itoa(int(t.Signal))
	}
	return "ExitCode:" + strconv.Itoa(int(t.ExitCode))
}

// restarts counts them, and says when the last one was.
func restarts(p *corev1.Pod, now time.Time) string {
	n, last := 0, time.Time{}
	for _, s := range p.Status.ContainerStatuses {
		n += int(s.RestartCount)
		if t := s.LastTerminationState.Terminated; t != nil && t.FinishedAt.After(last) {
			last = t.FinishedAt.Time
		}
	}
	if n == 0 || last.IsZero() {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d (%s ago)", n, age(last, now))
}

func gates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	met := 0
	for _, g := range p.Spec.ReadinessGates {
		for _, c := range p.Status.Conditions {
			if c.Type == g.ConditionType && c.Status == corev1.ConditionTrue {
				met++
			}
		}
	}
	return fmt.Sprintf("%d/%d", met, len(p.Spec.ReadinessGates))
}

func nodeColumns(name, since column) []column {
	return []column{
		name,
		col("Status", "string", func(n *corev1.Node) any { return nodeStatus(n) }),
		col("Roles", "string", func(n *corev1.Node) any { return roles(n) }),
		since,
		col("Version", "string", func(n *corev1.Node) any { return n.Status.NodeInfo.KubeletVersion }),
		wide("Internal-IP", func(n *corev1.Node) any { return nodeAddress(n, corev1.NodeInternalIP) }),
		wide("External-IP", func(n *corev1.Node) any { return nodeAddress(n, corev1.NodeExternalIP) }),
		wide("OS-Image", func(n *corev1.Node) any { return unknown(n.Status.NodeInfo.OSImage) }),
		wide("Kernel-Version", func(n *corev1.Node) any { return unknown(n.Status.NodeInfo.KernelVersion) }),
		wide("Container-Runtime", func(n *corev1.Node) any { return unknown(n.Status.NodeInfo.ContainerRuntimeVersion) }),
	}
}

func nodeStatus(n *corev1.Node) string {
	word := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			word = "NotReady"
			if c.Status == corev1.ConditionTrue {
				word = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		word += ",SchedulingDisabled"
	}
	return word
}

func roles(n *corev1.Node) string {
	var out []string
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			out = append(out, role)
		} else if k == "kubernetes.io/role" && v != "" {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return none(strings.Join(out, ","))
}

func nodeAddress(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return "<none>"
}

func unknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}
