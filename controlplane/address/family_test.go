package address

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func dualConfig() Config {
	return Config{
		Services: netip.MustParsePrefix("10.96.0.0/24"), Services6: netip.MustParsePrefix("fd96::/112"),
		Pods: netip.MustParsePrefix("10.62.0.0/16"), Pods6: netip.MustParsePrefix("fd62::/56"),
	}
}

func families(s *corev1.ServiceSpec) string {
	policy := "none"
	if s.IPFamilyPolicy != nil {
		policy = string(*s.IPFamilyPolicy)
	}
	return fmt.Sprint(policy, " ", s.IPFamilies, " ", s.ClusterIPs)
}

// shape is families without the number of the IPv6 address, which may be the one
// that the Service had before or another.
func shape(s *corev1.ServiceSpec) string {
	return regexp.MustCompile(`fd96::[0-9a-f]+`).ReplaceAllString(families(s), "fd96::x")
}

// What a Service says of families leads to what it does in Kubernetes.
func TestFamilies(t *testing.T) {
	const (
		single  = corev1.IPFamilyPolicySingleStack
		prefer  = corev1.IPFamilyPolicyPreferDualStack
		require = corev1.IPFamilyPolicyRequireDualStack
	)
	four, six := corev1.IPv4Protocol, corev1.IPv6Protocol
	say := func(policy corev1.IPFamilyPolicy, ips []string, f ...corev1.IPFamily) func(*corev1.ServiceSpec) {
		return func(s *corev1.ServiceSpec) {
			s.IPFamilies, s.ClusterIPs = f, ips
			if policy != "" {
				s.IPFamilyPolicy = &policy
			}
			if len(ips) > 0 {
				s.ClusterIP = ips[0]
			}
		}
	}
	none := []string{corev1.ClusterIPNone}
	for _, c := range []struct {
		name                    string
		spec                    func(*corev1.ServiceSpec)
		selects                 bool
		alone, both, err, error string // in a cluster of IPv4 alone, and of both
	}{
		{name: "nothing", spec: say("", nil), alone: "SingleStack [IPv4] [10.96.0.1]", both: "SingleStack [IPv4] [10.96.0.1]"},
		{name: "single", spec: say(single, nil), alone: "SingleStack [IPv4] [10.96.0.1]", both: "SingleStack [IPv4] [10.96.0.1]"},
		{name: "six", spec: say("", nil, six), err: `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`, both: "SingleStack [IPv6] [fd96::1]"},
		{name: "prefer", spec: say(prefer, nil), alone: "PreferDualStack [IPv4] [10.96.0.1]", both: "PreferDualStack [IPv4 IPv6] [10.96.0.1 fd96::1]"},
		{name: "prefer six", spec: say(prefer, nil, six), err: "not configured", both: "PreferDualStack [IPv6 IPv4] [fd96::1 10.96.0.1]"},
		{name: "require", spec: say(require, nil), err: "this cluster is not configured for dual-stack services", both: "RequireDualStack [IPv4 IPv6] [10.96.0.1 fd96::1]"},
		{name: "require, six first", spec: say(require, nil, six, four), err: "not configured", both: "RequireDualStack [IPv6 IPv4] [fd96::1 10.96.0.1]"},
		{name: "an address", spec: say("", []string{"10.96.0.9"}), alone: "SingleStack [IPv4] [10.96.0.9]", both: "SingleStack [IPv4] [10.96.0.9]"},
		{name: "an address of IPv6", spec: say("", []string{"fd96::9"}), err: `spec.clusterIPs[0]: Invalid value: "fd96::9": IPv6 is not configured on this cluster`, both: "SingleStack [IPv6] [fd96::9]"},
		{name: "an address, and one more", spec: say(prefer, []string{"fd96::9"}), err: "not configured", both: "PreferDualStack [IPv6 IPv4] [fd96::9 10.96.0.1]"},
		{name: "two addresses", spec: say(require, []string{"10.96.0.9", "fd96::9"}), err: "not configured", both: "RequireDualStack [IPv4 IPv6] [10.96.0.9 fd96::9]"},
		{name: "two families without a policy", spec: say("", nil, four, six), err: "must be RequireDualStack or PreferDualStack when multiple IP families are specified", error: "must be RequireDualStack or PreferDualStack when multiple IP families are specified"},
		{name: "two addresses, one family", spec: say(single, []string{"10.96.0.9", "fd96::9"}), err: "when multiple cluster IPs are specified", error: "when multiple cluster IPs are specified"},
		{name: "an address of the other family", spec: say("", []string{"fd96::9"}, four), err: "expected an IPv4 value as indicated by `ipFamilies[0]`", error: "expected an IPv4 value"},
		{name: "an address of another network", spec: say("", []string{"fd97::9"}), err: "not configured", error: "must be an address of the Service network fd96::/112"},
		{name: "headless", spec: say("", none), selects: true, alone: "SingleStack [IPv4] [None]", both: "SingleStack [IPv4] [None]"},
		{name: "headless of both", spec: say(prefer, none), selects: true, alone: "PreferDualStack [IPv4] [None]", both: "PreferDualStack [IPv4 IPv6] [None]"},
		{name: "headless without a selector", spec: say("", none), alone: "SingleStack [IPv4] [None]", both: "RequireDualStack [IPv4 IPv6] [None]"},
		{name: "headless of IPv6 without a selector", spec: say("", none, six), err: "not configured", both: "SingleStack [IPv6] [None]"},
	} {
		for cluster, want := range map[bool][2]string{false: {c.alone, c.err}, true: {c.both, c.error}} {
			config := dualConfig()
			if !cluster {
				config.Pods6, config.Services6 = netip.Prefix{}, netip.Prefix{}
			}
			got, err := api.Create(t.Context(), rig(t, config), service("s", func(s *corev1.ServiceSpec) {
				c.spec(s)
				if c.selects {
					s.Selector = map[string]string{"app": "x"}
				}
			}))
			switch {
			case want[1] != "":
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want[1]) {
					t.Errorf("%s, dual %v: got %v, want %q", c.name, cluster, err, want[1])
				}
			case err != nil:
				t.Errorf("%s, dual %v: %v", c.name, cluster, err)
			default:
				if f := families(&got.Spec); f != want[0] || got.Spec.ClusterIP != got.Spec.ClusterIPs[0] {
					t.Errorf("%s, dual %v: got %s (%s), want %s", c.name, cluster, f, got.Spec.ClusterIP, want[0])
				}
			}
		}
	}
}

// A Service gets its second family, and gives it back, when its policy says so; the
// first one stays.
func TestFamiliesChange(t *testing.T) {
	o := rig(t, dualConfig())
	now, err := api.Create(t.Context(), o, service("s", nil))
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(*corev1.ServiceSpec)) error {
		next := now.DeepCopy()
		f(&next.Spec)
		got, err := api.Update(t.Context(), o, next, api.UpdateOptions{})
		if err == nil {
			now = got
		}
		return err
	}
	policy := func(p corev1.IPFamilyPolicy) func(*corev1.ServiceSpec) {
		return func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = &p }
	}
	for _, c := range []struct {
		policy corev1.IPFamilyPolicy
		want   string
	}{
		{corev1.IPFamilyPolicyRequireDualStack, "RequireDualStack [IPv4 IPv6] [10.96.0.1 fd96::x]"},
		{corev1.IPFamilyPolicyPreferDualStack, "PreferDualStack [IPv4 IPv6] [10.96.0.1 fd96::x]"},
		{corev1.IPFamilyPolicySingleStack, "SingleStack [IPv4] [10.96.0.1]"},
		{corev1.IPFamilyPolicyPreferDualStack, "PreferDualStack [IPv4 IPv6] [10.96.0.1 fd96::x]"},
	} {
		if err := change(policy(c.policy)); err != nil || shape(&now.Spec) != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.policy, families(&now.Spec), err, c.want)
		}
	}
	for want, f := range map[string]func(*corev1.ServiceSpec){
		"spec.ipFamilies[0]": func(s *corev1.ServiceSpec) {
			s.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
		},
		"spec.clusterIPs[1]":     func(s *corev1.ServiceSpec) { s.ClusterIPs = []string{s.ClusterIP, "fd96::77"} },
		"first value must match": func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.77" },
		"more than one IP for":   func(s *corev1.ServiceSpec) { s.ClusterIPs = []string{s.ClusterIP, "10.96.0.78"} },
		"spec.ipFamilyPolicy":    policy("Both"),
		"spec.ipFamilies[1]: Dup": func(s *corev1.ServiceSpec) {
			s.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv4Protocol}
		},
	} {
		if err := change(f); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	// Who writes without having read keeps both.
	next := service("s", nil)
	got, err := api.Update(t.Context(), o, next, api.UpdateOptions{})
	if err != nil || shape(&got.Spec) != "PreferDualStack [IPv4 IPv6] [10.96.0.1 fd96::x]" {
		t.Errorf("written blindly: %s, %v", families(&got.Spec), err)
	}
	name := service("s", func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "example.com" })
	if got, err = api.Update(t.Context(), o, name, api.UpdateOptions{}); err != nil || families(&got.Spec) != "none [] []" {
		t.Errorf("as a name: %s, %v", families(&got.Spec), err)
	}
}

func TestNodesGetBlocksOfBothFamilies(t *testing.T) {
	o := rig(t, dualConfig())
	create := func(name string, cidrs ...string) (*corev1.Node, error) {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if len(cidrs) > 0 {
			n.Spec.PodCIDR, n.Spec.PodCIDRs = cidrs[0], cidrs
		}
		return api.Create(t.Context(), o, n)
	}
	for _, c := range []struct {
		name string
		asks []string
		want string
	}{
		{"own", []string{"10.62.0.0/22", "fd62:0:0:1::/64"}, "[10.62.0.0/22 fd62:0:0:1::/64]"},
		{"a", nil, "[10.62.4.0/22 fd62::/64]"},
		{"b", nil, "[10.62.8.0/22 fd62:0:0:2::/64]"},
		{"four", []string{"10.62.20.0/22"}, "[10.62.20.0/22 fd62:0:0:3::/64]"},
		{"taken", []string{"10.62.24.0/22", "fd62:0:0:2::/72"}, "overlaps with fd62:0:0:2::/64 of node b"},
		{"wrong", []string{"10.62.28.0/22", "10.62.32.0/22"}, "must be of the family of the cluster's fd62::/56"},
	} {
		n, err := create(c.name, c.asks...)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprint(n.Spec.PodCIDRs)
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	// An agent that knows of one block only leaves the other one alone.
	n, err := api.Get[*corev1.Node](t.Context(), o, api.Nodes, "", "a")
	if err != nil {
		t.Fatal(err)
	}
	n = n.DeepCopy()
	n.Spec.PodCIDRs = n.Spec.PodCIDRs[:1]
	if n, err = api.Update(t.Context(), o, n, api.UpdateOptions{}); err != nil || fmt.Sprint(n.Spec.PodCIDRs) != "[10.62.4.0/22 fd62::/64]" {
		t.Errorf("got %v, %v", n.Spec.PodCIDRs, err)
	}
	n = n.DeepCopy()
	n.Spec.PodCIDRs[1] = "fd62:0:0:9::/64"
	if _, err := api.Update(t.Context(), o, n, api.UpdateOptions{}); err == nil {
		t.Error("a node's block was changed")
	}
}

func TestNetworksOfIPv6(t *testing.T) {
	for _, c := range []struct{ pods, services, want string }{
		{"fd62::/56", "", "of each"},
		{"10.63.0.0/16", "fd96::/112", "must be IPv6"},
		{"fd62::/56", "fd96::/64", "between 108 and 124"},
		{"fd62::/32", "fd96::/112", "between 40 and 118"},
		{"fd62::/120", "fd96::/112", "between 40 and 118"},
		{"fd62::/56", "fd62::/112", "overlap"},
	} {
		in := Config{Pods6: netip.MustParsePrefix(c.pods)}
		if c.services != "" {
			in.Services6 = netip.MustParsePrefix(c.services)
		}
		if _, err := New(in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s and %s: got %v, want %q", c.pods, c.services, err, c.want)
		}
	}
	for pods, want := range map[string]int{"fd62::/48": 64, "fd62::/56": 64, "fd62::/64": 80, "fd62::/104": 118, "fd62::/118": 118} {
		c := Config{Pods6: netip.MustParsePrefix(pods), Services6: netip.MustParsePrefix("fd96::/112")}
		if err := c.fill(); err != nil || c.nodeBits6() != want {
			t.Errorf("%s: blocks of /%d, %v, want /%d", pods, c.nodeBits6(), err, want)
		}
	}
}

func TestFollowing(t *testing.T) {
	for in, want := range map[string]string{
		"10.62.4.0/22": "10.62.8.0", "10.255.0.0/16": "11.0.0.0", "fd62::/64": "fd62:0:0:1::", "fd62:0:0:ffff::/64": "fd62:0:1::", "fd62::fc00/118": "fd62::1:0",
	} {
		if got := following(netip.MustParsePrefix(in)).String(); got != want {
			t.Errorf("after %s: got %s, want %s", in, got, want)
		}
	}
}
