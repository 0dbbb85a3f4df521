package service

import "encoding/binary"

// A connection is given a number at random, or by its client's address, and the
// number leads to an endpoint: there are narrow of them, or wide for a Service
// with many endpoints or whose clients stay with theirs. 60 can be shared out evenly among 1 to 6, 10 and 12; at
// 840 a share is at most 1 in 65 larger than another for up to 64 endpoints.
// More than 840 endpoints of one port do not all get one.
const (
	narrow = 60
	wide   = 840

	fewEndpoints = 12 // up to as many are narrow
)

// width is the number of slots for so many endpoints.
func width(endpoints int) int {
	if endpoints <= fewEndpoints {
		return narrow
	}
	return wide
}

// spread shares slots out among endpoints, as evenly as it goes: each in turn
// takes the next free one of an order of its own, which follows from its address
// alone (the idea is Maglev's, Eisenbud et al. 2016). Many slots keep their
// endpoint when another one comes or goes, which makes for few changes.
func spread(to []backend, width int) []backend {
	if len(to) == 0 {
		return nil
	}
	type order struct{ next, step int }
	orders := make([]order, len(to))
	for i, b := range to {
		h := b.hash()
		orders[i] = order{next: int(h % uint64(width)), step: coprime(int(h>>33), width)}
	}
	out := make([]backend, width)
	taken := make([]bool, width)
	for left := width; ; {
		for i := range to {
			o := &orders[i]
			for taken[o.next] {
				o.next = (o.next + o.step) % width
			}
			out[o.next], taken[o.next] = to[i], true
			if left--; left == 0 {
				return out
			}
		}
	}
}

// stick gives each slot to the endpoint that it ranks highest (rendezvous
// hashing): when an endpoint goes, only its own slots move, and when one comes,
// it is all that others move to. The shares are as even as chance has it.
func stick(to []backend) []backend {
	if len(to) == 0 {
		return nil
	}
	hashes := make([]uint64, len(to))
	for i, b := range to {
		hashes[i] = b.hash()
	}
	out := make([]backend, wide)
	for slot := range out {
		best := uint64(0)
		for i, h := range hashes {
			if rank := mix(h + uint64(slot)); rank >= best {
				best, out[slot] = rank, to[i]
			}
		}
	}
	return out
}

func (b backend) hash() uint64 {
	h := uint64(binary.BigEndian.Uint32(b.ip[12:]))<<16 | uint64(b.port)
	if b.ip.six() {
		h ^= mix(binary.BigEndian.Uint64(b.ip[:]) ^ mix(uint64(binary.BigEndian.Uint32(b.ip[8:]))))
	}
	return mix(h)
}

// mix has every bit of a number depend on every other (SplitMix64's).
func mix(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// coprime is a step with which one comes past every slot: both sizes are made of
// 2, 3, 5 and 7.
func coprime(n, width int) int {
	for n = n % width; ; n++ {
		if n%2 != 0 && n%3 != 0 && n%5 != 0 && n%7 != 0 {
			return n
		}
	}
}
