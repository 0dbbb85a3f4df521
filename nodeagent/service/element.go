package service

import (
	"encoding/binary"
)

// set is one of the kernel's sets or maps.
type set int

const (
	slots   set = iota // a front's slot to its endpoint
	outer              // the same, for clients from outside of the cluster where that differs
	many               // fronts with wide slots
	sticky             // fronts whose slot follows from the client's address
	exposed            // fronts outside of the Service network
	own                // fronts for which outer counts
	loops              // an endpoint's address, twice: it is led to itself
	sets
)

func (s set) String() string {
	return [...]string{"slots", "outer", "many", "sticky", "exposed", "own", "loops"}[s]
}

// isMap: an element has a value.
func (s set) isMap() bool { return s == slots || s == outer }

// elementKey is an element's key as the kernel has it: each part begins at a
// multiple of four bytes. A front's is address, protocol, port; a slot's has the
// slot's number behind; a loop's is two addresses.
type elementKey [16]byte

// element is one of a set; value is that of maps.
type element struct {
	key   elementKey
	value backend
}

func frontKey(k key) (e elementKey) {
	copy(e[:], k.ip[:])
	e[4] = k.protocol
	binary.BigEndian.PutUint16(e[8:], k.port)
	return e
}

func slotKey(k key, slot int) elementKey {
	e := frontKey(k)
	binary.NativeEndian.PutUint32(e[12:], uint32(slot))
	return e
}

func loopKey(a ip) (e elementKey) {
	copy(e[:], a[:])
	copy(e[4:], a[:])
	return e
}

func (e elementKey) front() key {
	return key{ip: ip(e[:4]), protocol: e[4], port: binary.BigEndian.Uint16(e[8:])}
}

func (e elementKey) slot() int { return int(binary.NativeEndian.Uint32(e[12:])) }

// keySize is how many bytes of the key a set uses.
func (s set) keySize() int {
	switch s {
	case slots, outer:
		return 16
	case loops:
		return 8
	default:
		return 12
	}
}

const valueSize = 8

// encode is a backend as a map's value.
func (b backend) encode() []byte {
	v := make([]byte, valueSize)
	copy(v, b.ip[:])
	binary.BigEndian.PutUint16(v[4:], b.port)
	return v
}

func decodeBackend(v []byte) backend {
	return backend{ip: ip(v[:4]), port: binary.BigEndian.Uint16(v[4:])}
}
