package service

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// set is one of the kernel's sets or maps: those of the IPv4 table, then the same
// of the IPv6 one.
type set int

const (
	slots   set = iota // a front's slot to its endpoint
	outer              // the same, for clients from outside of the cluster where that differs
	many               // fronts with wide slots
	sticky             // fronts whose slot follows from the client's address
	exposed            // fronts outside of the Service network
	own                // fronts for which outer counts
	loops              // an endpoint's address, twice: it is led to itself
	guarded            // fronts that not everybody may come to
	allowed            // who may: a front with a network of clients
	kinds

	sets = 2 * kinds
)

// of is the set of the same kind for an address of that family.
func (s set) of(a ip) set { return s.in(a.six()) }

func (s set) in(six bool) set {
	if six {
		return s.kind() + kinds
	}
	return s.kind()
}

func (s set) kind() set { return s % kinds }

func (s set) six() bool { return s >= kinds }

func (s set) String() string {
	return [...]string{"slots", "outer", "many", "sticky", "exposed", "own", "loops", "guarded", "allowed"}[s.kind()]
}

// isMap: an element has a value.
func (s set) isMap() bool { return s.kind() == slots || s.kind() == outer }

// allSets are those of a family.
func allSets(six bool) (out []set) {
	for s := range kinds {
		out = append(out, s.in(six))
	}
	return out
}

// elementKey is an element's key as the kernel has it: each part begins at a
// multiple of four bytes. A front's is address, protocol, port; a slot's has the
// slot's number behind; a loop's is two addresses. That of who is allowed is a
// front's, then the network's address and, for us alone, its length.
type elementKey [44]byte

// element is one of a set; value is that of maps.
type element struct {
	key   elementKey
	value backend
}

func frontKey(k key) (e elementKey) {
	n := copy(e[:], k.ip.wire())
	e[n] = k.protocol
	binary.BigEndian.PutUint16(e[n+4:], k.port)
	return e
}

func slotKey(k key, slot int) elementKey {
	e := frontKey(k)
	binary.NativeEndian.PutUint32(e[len(k.ip.wire())+8:], uint32(slot))
	return e
}

func loopKey(a ip) (e elementKey) {
	n := copy(e[:], a.wire())
	copy(e[n:], a.wire())
	return e
}

func allowedKey(k key, from netip.Prefix) elementKey {
	e := frontKey(k)
	n := copy(e[len(k.ip.wire())+8:], from.Masked().Addr().AsSlice())
	e[len(k.ip.wire())+8+n] = byte(from.Bits())
	return e
}

// from is the network of who is allowed.
func (s set) from(e elementKey) netip.Prefix {
	n := s.addressSize()
	a, _ := netip.AddrFromSlice(e[n+8 : 2*n+8])
	return netip.PrefixFrom(a, int(e[2*n+8]))
}

// keyEnd is the key of the last client that is allowed, as the kernel has it.
func (s set) keyEnd(e elementKey) []byte {
	end, n := slices.Clone(e[:s.keySize()]), s.addressSize()
	for bit := s.from(e).Bits(); bit < 8*n; bit++ {
		end[n+8+bit/8] |= 0x80 >> (bit % 8)
	}
	return end
}

// withEnd is a key of who is allowed as the kernel tells it: first and last.
func (s set) withEnd(e elementKey, end []byte) elementKey {
	n, bits := s.addressSize(), 0
	for bits < 8*n && (e[n+8+bits/8]^end[n+8+bits/8])&(0x80>>(bits%8)) == 0 {
		bits++
	}
	e[2*n+8] = byte(bits)
	return e
}

// addressSize is that of addresses in a set's keys.
func (s set) addressSize() int {
	if s.six() {
		return 16
	}
	return 4
}

// address is what a key of the set begins with.
func (s set) address(e elementKey) ip { return ipFrom(e[:s.addressSize()]) }

func (s set) front(e elementKey) key {
	n := s.addressSize()
	return key{ip: s.address(e), protocol: e[n], port: binary.BigEndian.Uint16(e[n+4:])}
}

func (s set) slot(e elementKey) int { return int(binary.NativeEndian.Uint32(e[s.addressSize()+8:])) }

// keySize is how many bytes of the key a set uses.
func (s set) keySize() int {
	switch s.kind() {
	case slots, outer:
		return s.addressSize() + 12
	case loops:
		return 2 * s.addressSize()
	case allowed:
		return 2*s.addressSize() + 8
	default:
		return s.addressSize() + 8
	}
}

// valueSize is that of a map's values.
func (s set) valueSize() int { return s.addressSize() + 4 }

// encode is a backend as a map's value.
func (b backend) encode() []byte {
	v := append([]byte(nil), b.ip.wire()...)
	return append(binary.BigEndian.AppendUint16(v, b.port), 0, 0)
}

func decodeBackend(v []byte) backend {
	n := len(v) - 4
	return backend{ip: ipFrom(v[:n]), port: binary.BigEndian.Uint16(v[n:])}
}
