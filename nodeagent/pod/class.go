package pod

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// classOf is the runtime that a pod is for. Replicas of functions go to the
// fast one, unless they say otherwise or ask for something that it has not.
func classOf(p *corev1.Pod) runtime.Class {
	s := &p.Spec
	if name := s.RuntimeClassName; name != nil && *name != string(runtime.Fast) {
		return runtime.Runc
	}
	if !isFunction(p) || len(s.InitContainers) > 0 || len(s.Containers) != 1 || s.HostNetwork || alone(p) || segment(p) != "" || s.HostPID || s.HostIPC || shares(p) {
		return runtime.Runc
	}
	c := &s.Containers[0]
	if c.Stdin || c.TTY {
		return runtime.Runc
	}
	for _, m := range c.VolumeMounts {
		if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone || special(m.MountPath) {
			return runtime.Runc
		}
	}
	sc := c.SecurityContext
	if sc == nil {
		return runtime.Fast
	}
	if sc.Privileged != nil && *sc.Privileged {
		return runtime.Runc
	}
	if sc.Capabilities != nil && len(sc.Capabilities.Add) > 0 && !harmless(sc.Capabilities.Add) {
		return runtime.Runc
	}
	return runtime.Fast
}

// special are places that the kernel's own file systems have.
func special(target string) bool {
	target = path.Clean(target)
	if target == "/dev/shm" {
		return false
	}
	for _, top := range []string{"/dev", "/proc", "/sys"} {
		if target == "/" || target == top || strings.HasPrefix(target, top+"/") {
			return true
		}
	}
	return false
}

// harmless are rights that give no power over other processes or the host's
// kernel.
func harmless(add []corev1.Capability) bool {
	for _, c := range add {
		switch strings.TrimPrefix(strings.ToUpper(string(c)), "CAP_") {
		case "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "NET_BIND_SERVICE", "NET_RAW":
		default:
			return false
		}
	}
	return true
}
