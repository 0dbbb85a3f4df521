package service

import "net/netip"

// ip is an address of either family, an IPv4 one as RFC 4291 puts it into IPv6
// (::ffff:0:0/96).
type ip [16]byte

func ipOf(a netip.Addr) ip { return a.As16() }

func (a ip) addr() netip.Addr { return netip.AddrFrom16(a).Unmap() }

func (a ip) six() bool { return !netip.AddrFrom16(a).Is4In6() }

// wire is the address as it stands in a packet.
func (a ip) wire() []byte {
	if a.six() {
		return a[:]
	}
	return a[12:]
}

// ipFrom reads what wire made.
func ipFrom(b []byte) ip {
	a, _ := netip.AddrFromSlice(b)
	return ipOf(a)
}

// anywhere is the place of the address of what all of the node's addresses have.
func anywhere(six bool) ip {
	if six {
		return ipOf(netip.IPv6Unspecified())
	}
	return ipOf(netip.IPv4Unspecified())
}
