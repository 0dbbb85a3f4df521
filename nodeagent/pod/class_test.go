package pod

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

func TestClassOf(t *testing.T) {
	for name, c := range map[string]struct {
		want   runtime.Class
		change func(p *corev1.Pod)
	}{
		"a function":            {runtime.Fast, func(*corev1.Pod) {}},
		"named":                 {runtime.Fast, func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("podsnap") }},
		"a volume":              {runtime.Fast, func(p *corev1.Pod) { mount(p, "/data") }},
		"shared memory":         {runtime.Fast, func(p *corev1.Pod) { mount(p, "/dev/shm") }},
		"a small right":         {runtime.Fast, func(p *corev1.Pod) { add(p, "NET_BIND_SERVICE") }},
		"runc by name":          {runtime.Runc, func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("runc") }},
		"another name":          {runtime.Runc, func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("gvisor") }},
		"no function":           {runtime.Runc, func(p *corev1.Pod) { p.Labels = nil }},
		"a sidecar":             {runtime.Runc, func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{}) }},
		"an init container":     {runtime.Runc, func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{}} }},
		"the host's network":    {runtime.Runc, func(p *corev1.Pod) { p.Spec.HostNetwork = true }},
		"no network":            {runtime.Runc, func(p *corev1.Pod) { p.Annotations = map[string]string{api.AnnotationNetwork: api.NetworkNone} }},
		"a segment":             {runtime.Runc, func(p *corev1.Pod) { p.Annotations = map[string]string{api.AnnotationNetwork: api.NetworkBridge} }},
		"the host's processes":  {runtime.Runc, func(p *corev1.Pod) { p.Spec.HostPID = true }},
		"shared processes":      {runtime.Runc, func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = new(true) }},
		"privileged":            {runtime.Runc, func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext.Privileged = new(true) }},
		"all rights":            {runtime.Runc, func(p *corev1.Pod) { add(p, "ALL") }},
		"power over processes":  {runtime.Runc, func(p *corev1.Pod) { add(p, "CAP_SYS_PTRACE") }},
		"a mount below /proc":   {runtime.Runc, func(p *corev1.Pod) { mount(p, "/proc/sys/../keys") }},
		"a mount over /dev":     {runtime.Runc, func(p *corev1.Pod) { mount(p, "/dev/") }},
		"mounts that propagate": {runtime.Runc, func(p *corev1.Pod) { mount(p, "/d").MountPropagation = new(corev1.MountPropagationHostToContainer) }},
	} {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Labels: map[string]string{api.LabelFunction: "f"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{SecurityContext: &corev1.SecurityContext{}}}},
		}
		c.change(p)
		if got := sandboxSpec(p, "h", 1).Class; got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

// Pods that ask for a bridge share a segment with their namespace, if their network
// is their own.
func TestNetworkOf(t *testing.T) {
	for _, c := range []struct {
		annotation string
		host       bool
		alone      bool
		segment    string
	}{
		{annotation: ""},
		{annotation: api.NetworkNone, alone: true},
		{annotation: api.NetworkBridge, segment: "shop"},
		{annotation: api.NetworkBridge, host: true},
		{annotation: "macvlan"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Annotations: map[string]string{api.AnnotationNetwork: c.annotation}}}
		p.Spec.HostNetwork = c.host
		if got := sandboxSpec(p, "h", 1); got.NoNetwork != c.alone || got.Segment != c.segment {
			t.Errorf("%q, host's network %t: got none %t, segment %q", c.annotation, c.host, got.NoNetwork, got.Segment)
		}
	}
}

func mount(p *corev1.Pod, at string) *corev1.VolumeMount {
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{MountPath: at}}
	return &p.Spec.Containers[0].VolumeMounts[0]
}

func add(p *corev1.Pod, c corev1.Capability) {
	p.Spec.Containers[0].SecurityContext.Capabilities = &corev1.Capabilities{Add: []corev1.Capability{c}}
}
