package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// The way to a peer follows from its address; one that cannot be a peer does
// not keep the others from being reached.
func TestPlan(t *testing.T) {
	g := ground{
		own: netip.MustParsePrefix("10.62.1.0/24"), cluster: netip.MustParsePrefix("10.62.0.0/16"), overlay: OverlayAuto,
		subnets: []subnet{
			{netip.MustParseAddr("10.62.1.1"), netip.MustParsePrefix("10.62.1.1/32"), 1},
			{netip.MustParseAddr("192.0.2.1"), netip.MustParsePrefix("192.0.2.0/24"), 2},
			{netip.MustParseAddr("192.0.2.129"), netip.MustParsePrefix("192.0.2.128/25"), 3},
		},
	}
	near, nearer, far := peer("near", "192.0.2.9", "10.62.2.0/24"), peer("nearer", "192.0.2.200", "10.62.4.0/24"), peer("far", "198.51.100.9", "10.62.3.0/24")
	for _, c := range []struct {
		overlay Overlay
		peers   []Peer
		want    string
		fault   string // part of the error
	}{
		{OverlayAuto, nil, "", ""},
		{OverlayAuto, []Peer{near, far, nearer}, "10.62.2.0/24 over 192.0.2.9 link 2; 10.62.3.0/24 over 10.62.3.1 of 198.51.100.9; 10.62.4.0/24 over 192.0.2.200 link 3", ""},
		{OverlayVXLAN, []Peer{near}, "10.62.2.0/24 over 10.62.2.1 of 192.0.2.9", ""},
		{OverlayNone, []Peer{near, far}, "10.62.2.0/24 over 192.0.2.9 link 2", "peer far: 198.51.100.9 is not in the subnet"},
		{OverlayAuto, []Peer{peer("self", "192.0.2.1", "10.62.2.0/24"), near}, "10.62.2.0/24 over 192.0.2.9 link 2", "is this node's own"},
		{OverlayAuto, []Peer{peer("mine", "192.0.2.9", "10.62.1.128/25")}, "", "overlaps with this node's"},
		{OverlayAuto, []Peer{near, peer("twin", "192.0.2.8", "10.62.2.0/25")}, "10.62.2.0/24 over 192.0.2.9 link 2", "peer twin: pod CIDR 10.62.2.0/25 overlaps with 10.62.2.0/24 of peer near"},
		{OverlayAuto, []Peer{peer("out", "192.0.2.9", "10.63.0.0/24")}, "", "is not part of the cluster's"},
		{OverlayAuto, []Peer{peer("all", "192.0.2.9", "10.0.0.0/8")}, "", "is not part of the cluster's"},
		{OverlayAuto, []Peer{{Name: "new", Address: netip.MustParseAddr("192.0.2.9")}}, "", "want an IPv4 prefix"},
		{OverlayAuto, []Peer{{Name: "lost", PodCIDR: near.PodCIDR}, near}, "10.62.2.0/24 over 192.0.2.9 link 2", "want an IPv4 address"},
	} {
		g.overlay = c.overlay
		got, err := g.plan(c.peers)
		if s := got.String(); s != c.want {
			t.Errorf("%s, %v:\n got %s\nwant %s", c.overlay, c.peers, s, c.want)
		}
		if c.fault == "" && err != nil || c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)) {
			t.Errorf("%s, %v: got error %v, want %q", c.overlay, c.peers, err, c.fault)
		}
	}
}

func peer(name, address, cidr string) Peer {
	return Peer{Name: name, Address: netip.MustParseAddr(address), PodCIDR: netip.MustParsePrefix(cidr)}
}

func (c crossing) String() string {
	var out []string
	for dst, h := range c.routes {
		s := fmt.Sprintf("%s over %s", dst, h.via)
		if h.link != 0 {
			s += fmt.Sprint(" link ", h.link)
		} else {
			s += fmt.Sprint(" of ", c.far[h.via].node)
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}
