package spec

import (
	"slices"
	"strings"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// usualCapabilities is what containers have in Docker and containerd.
func usualCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// capabilities computes a container's set, sorted: the start set, plus those
// added, less those dropped; a name that is both added and dropped stays, as
// in Kubernetes. have are those that can be given at all.
func capabilities(s runtime.Security, have []string) []string {
	if s.Privileged {
		return sorted(have)
	}
	var set []string
	if s.DefaultCapabilities {
		set = usualCapabilities()
	}
	add, addAll := capNames(s.AddCapabilities)
	drop, dropAll := capNames(s.DropCapabilities)
	switch {
	case addAll:
		set = have
	case dropAll:
		set = nil
	}
	set = slices.DeleteFunc(slices.Clone(set), func(c string) bool { return slices.Contains(drop, c) })
	for _, c := range add {
		if !slices.Contains(set, c) {
			set = append(set, c)
		}
	}
	return sorted(slices.DeleteFunc(set, func(c string) bool { return !slices.Contains(have, c) }))
}

func capNames(in []string) (names []string, all bool) {
	for _, n := range in {
		n = strings.ToUpper(n)
		if n == "ALL" || n == "CAP_ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		names = append(names, n)
	}
	return names, all
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}
