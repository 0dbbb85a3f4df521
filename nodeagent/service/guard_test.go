package service

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/network"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

func TestSourceRanges(t *testing.T) {
	for _, c := range []struct {
		kind   corev1.ServiceType
		ranges []string
		six    bool
		want   string
	}{
		{corev1.ServiceTypeLoadBalancer, nil, false, "[] false"},
		{corev1.ServiceTypeNodePort, []string{"192.0.2.0/24"}, false, "[] false"},
		{corev1.ServiceTypeLoadBalancer, []string{"192.0.2.77/24", " 10.0.0.0/8 "}, false, "[10.0.0.0/8 192.0.2.0/24] true"},
		{corev1.ServiceTypeLoadBalancer, []string{"192.0.2.0/24", "192.0.2.128/25", "192.0.2.0/24", "192.0.0.0/16"}, false, "[192.0.0.0/16] true"},
		{corev1.ServiceTypeLoadBalancer, []string{"192.0.2.0/24"}, true, "[] true"},
		{corev1.ServiceTypeLoadBalancer, []string{"192.0.2.0/24", "2001:db8::/32"}, true, "[2001:db8::/32] true"},
		{corev1.ServiceTypeLoadBalancer, []string{"0.0.0.0/0"}, false, "[0.0.0.0/0] true"},
	} {
		got, guarded := sourceRanges(&corev1.Service{Spec: corev1.ServiceSpec{Type: c.kind, LoadBalancerSourceRanges: c.ranges}}, c.six)
		if s := fmt.Sprint(got, " ", guarded); s != c.want {
			t.Errorf("%s %v: got %s, want %s", c.kind, c.ranges, s, c.want)
		}
	}
}

// What the kernel is told of a network is what it tells of it.
func TestAllowedKey(t *testing.T) {
	for _, p := range []string{"0.0.0.0/0", "10.0.0.0/8", "192.0.2.64/27", "192.0.2.1/32", "::/0", "2001:db8::/33", "fd00::1/128"} {
		from := netip.MustParsePrefix(p)
		k := key{ip: anywhere(from.Addr().Is6()), protocol: 6, port: 80}
		e, s := allowedKey(k, from), allowed.of(k.ip)
		var told elementKey
		copy(told[:], e[:s.keySize()])
		if got := s.withEnd(told, s.keyEnd(e)); got != e || s.from(got) != from || s.front(got) != k {
			t.Errorf("%s: got %v, want %v", p, got, e)
		}
	}
}

// A load balancer's address is reached by who may, in both families; other ways
// into the Service are not its affair.
func TestLoadBalancerSourceRanges(t *testing.T) {
	r := newDualRig(t, 3)
	r.start()
	r.both("web", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.Ports[0].NodePort = 30080
		s.Spec.LoadBalancerSourceRanges = []string{outsideIP + "/32", "10.221.0.0/16"}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.6"}, {IP: "2001:db8:6::6"}}
	})
	r.endpoints("web", r.pods[0])
	r.endpoints6("web", corev1.ProtocolTCP, r.pods[0])
	const four, six = "203.0.113.6:80", "[2001:db8:6::6]:80"
	set := func(ranges ...string) {
		t.Helper()
		s, err := api.Mutate(t.Context(), r.objects, api.Services, ns, "web", api.UpdateOptions{}, func(s *corev1.Service) (bool, error) {
			s.Spec.LoadBalancerSourceRanges = ranges
			return true, nil
		})
		r.must(err)
		r.await("the ranges", func(l *ledger) bool {
			for _, to := range []string{four, six} {
				at := netip.MustParseAddrPort(to)
				has := l.fronts[key{ip: ipOf(at.Addr()), protocol: unix.IPPROTO_TCP, port: at.Port()}]
				want, guarded := sourceRanges(s, at.Addr().Is6())
				if has.guarded != guarded || !slices.Equal(has.ranges, want) {
					return false
				}
			}
			return true
		})
	}
	r.expect(r.outside, at(four), r.pods[:1], "")
	r.expect(r.pods[1].ns, at(four), r.pods[:1], "")
	r.closed(r.outside, at(six)) // no network of IPv6 is named
	r.expect(r.outside, at("["+hostIP6+"]:30080"), r.pods[:1], "")
	r.expect(r.outside, at(hostIP+":30080"), r.pods[:1], "")
	r.expect(r.pods[1].ns, at("10.97.0.1:80"), r.pods[:1], "")

	set("198.51.100.0/24", "198.51.100.128/25", "2001:db8::/64") // more than it was, in one step
	r.expect(r.outside, at(four), r.pods[:1], "")
	r.expect(r.outside, at(six), r.pods[:1], "")
	r.closed(r.pods[1].ns, at(four))
	set("192.0.2.0/24")
	r.closed(r.outside, at(four))
	r.closed(r.outside, at(six))
	r.stop() // it lasts over a restart, and after one
	r.closed(r.outside, at(four))
	r.start()
	r.closed(r.outside, at(four))
	set()
	r.expect(r.outside, at(four), r.pods[:1], "")
	r.expect(r.pods[1].ns, at(six), r.pods[:1], "")
}

// Somebody lets another network in, and takes out one that may come.
func TestAuditRepairsSourceRanges(t *testing.T) {
	r := newRig(t, 2)
	r.config.Audit = 5 * time.Millisecond
	r.start()
	r.service("web", "10.97.0.1", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.LoadBalancerSourceRanges = []string{"10.221.0.0/16"}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.6"}}
	})
	r.endpoints("web", r.pods[0])
	to := at("203.0.113.6:80")
	r.expect(r.pods[1].ns, to, r.pods[:1], "")
	web := key{ip: four(203, 0, 113, 6), protocol: unix.IPPROTO_TCP, port: 80}
	r.harm(func(k *kernel) error {
		var c changes
		c.remove(phaseAdd, allowed, element{key: allowedKey(web, netip.MustParsePrefix("10.221.0.0/16"))})
		c.add(phaseAdd, allowed, element{key: allowedKey(web, netip.MustParsePrefix(outsideIP+"/32"))})
		return k.apply(&c)
	})
	eventually(r, "who may come", func() error {
		return network.Inside(r.pods[1].ns, func() error { _, _, err := askFor(to, shortly); return err })
	})
	r.closed(r.outside, to)
	r.harm(func(k *kernel) error {
		var c changes
		c.remove(phaseAdd, guarded, element{key: frontKey(web)})
		return k.apply(&c)
	})
	eventually(r, "who may not come", func() error {
		return network.Inside(r.outside, func() error {
			if _, _, err := askFor(to, shortly); err == nil {
				return errors.New("is let in")
			}
			return nil
		})
	})
}

// closed is an address that nobody answers at, as seen from somewhere.
func (r *rig) closed(from *os.File, to netip.AddrPort) {
	r.Helper()
	err := network.Inside(from, func() error { _, _, err := askFor(to, shortly); return err })
	if late, ok := errors.AsType[net.Error](err); !ok || !late.Timeout() {
		r.Errorf("%s, for who may not come: %v, want a time-out", to, err)
	}
}
