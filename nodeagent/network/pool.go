package network

import (
	"fmt"
	"net/netip"
)

// pool hands out the addresses of a pod CIDR. It is plain data: no locks, no
// clock. Addresses are handed out in turn, so that a freed one rests for as
// long as the CIDR allows before it is used again.
type pool struct {
	cidr    netip.Prefix
	gateway netip.Addr            // the first address, the host's own
	owner   map[netip.Addr]string // address to owner
	byOwner map[string]netip.Addr
	next    netip.Addr
}

// newPool makes a pool over an IPv4 prefix of /8 to /29.
func newPool(cidr netip.Prefix) (*pool, error) {
	cidr = cidr.Masked()
	if !cidr.Addr().Is4() || cidr.Bits() < 8 || cidr.Bits() > 29 {
		return nil, fmt.Errorf("pod CIDR %s: want an IPv4 prefix between /8 and /29, such as 10.62.0.0/24", cidr)
	}
	gw := cidr.Addr().Next()
	return &pool{
		cidr: cidr, gateway: gw, next: gw.Next(),
		owner: map[netip.Addr]string{}, byOwner: map[string]netip.Addr{},
	}, nil
}

// usable says whether a pod may have the address: neither the network's own,
// nor the host's, nor the broadcast address.
func (p *pool) usable(a netip.Addr) bool {
	return p.cidr.Contains(a) && p.cidr.Contains(a.Next()) && p.gateway.Less(a)
}

// take hands out an address. An owner that has one gets the same again.
func (p *pool) take(owner string) (netip.Addr, error) {
	if a, ok := p.byOwner[owner]; ok {
		return a, nil
	}
	for a, first := p.next, true; first || a != p.next; a, first = p.after(a), false {
		if _, taken := p.owner[a]; !taken {
			p.next = p.after(a)
			p.owner[a], p.byOwner[owner] = owner, a
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("pod CIDR %s has no free address: %d pods have one; remove pods or start the node with a larger pod CIDR", p.cidr, len(p.owner))
}

// reserve gives a certain address to an owner.
func (p *pool) reserve(owner string, a netip.Addr) error {
	if !p.usable(a) {
		return fmt.Errorf("address %s is not a pod address of %s", a, p.cidr)
	}
	if o, taken := p.owner[a]; taken && o != owner {
		return fmt.Errorf("address %s belongs to sandbox %s", a, o)
	}
	p.release(owner)
	p.owner[a], p.byOwner[owner] = owner, a
	return nil
}

// release takes the owner's address back, if it has one.
func (p *pool) release(owner string) {
	if a, ok := p.byOwner[owner]; ok {
		delete(p.owner, a)
		delete(p.byOwner, owner)
	}
}

func (p *pool) after(a netip.Addr) netip.Addr {
	if a = a.Next(); p.usable(a) {
		return a
	}
	return p.gateway.Next()
}

// change gives an owner another address. The old one stays out of the pool
// until it is freed.
func (p *pool) change(owner string) (netip.Addr, error) {
	old := p.byOwner[owner]
	delete(p.byOwner, owner)
	next, err := p.take(owner)
	if err != nil {
		p.byOwner[owner] = old
		return netip.Addr{}, err
	}
	p.owner[old] = "" // nobody's, and taken
	return next, nil
}

// free takes an address back that change has put aside.
func (p *pool) free(a netip.Addr) {
	if p.owner[a] == "" {
		delete(p.owner, a)
	}
}
