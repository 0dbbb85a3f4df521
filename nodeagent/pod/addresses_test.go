package pod

import (
	"fmt"
	"testing"
	"time"

	"github.com/podsnap/podsnap/nodeagent/runtime"
	corev1 "k8s.io/api/core/v1"
)

// A pod's first address is that in IPv4; in the host's network it has the host's.
func TestAddressesInStatus(t *testing.T) {
	for _, c := range []struct {
		name        string
		host        bool
		box         runtime.Sandbox
		hostIP6     string
		want, hosts string
	}{
		{"none yet", false, runtime.Sandbox{}, "", " []", "192.0.2.9 [{192.0.2.9}]"},
		{"one family", false, runtime.Sandbox{ID: "a", IP: "10.62.0.2"}, "", "10.62.0.2 [{10.62.0.2}]", "192.0.2.9 [{192.0.2.9}]"},
		{"two", false, runtime.Sandbox{ID: "a", IP: "10.62.0.2", IP6: "fd62::2"}, "2001:db8::9", "10.62.0.2 [{10.62.0.2} {fd62::2}]", "192.0.2.9 [{192.0.2.9} {2001:db8::9}]"},
		{"the host's", true, runtime.Sandbox{ID: "a"}, "2001:db8::9", "192.0.2.9 [{192.0.2.9} {2001:db8::9}]", "192.0.2.9 [{192.0.2.9} {2001:db8::9}]"},
	} {
		p := &corev1.Pod{Spec: corev1.PodSpec{HostNetwork: c.host}}
		s := New(p, "192.0.2.9", &c.box, time.Now())
		s.HostIP6 = c.hostIP6
		st := s.status(time.Now())
		if got := fmt.Sprint(st.PodIP, " ", st.PodIPs); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		if got := fmt.Sprint(st.HostIP, " ", st.HostIPs); got != c.hosts {
			t.Errorf("%s: the host's are %s, want %s", c.name, got, c.hosts)
		}
	}
}
