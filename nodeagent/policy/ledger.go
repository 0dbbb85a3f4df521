package policy

import (
	"maps"
	"net/netip"
)

// ledger knows what the kernel's table contains. It is plain data.
type ledger struct {
	program *program
	placed  map[netip.Addr]placement
	groups  map[string]held // chains of pods
}

// held is a chain, by how many pods, and whether the kernel has it.
type held struct {
	chain
	pods  int
	there bool
}

func newLedger(p *program) *ledger {
	return &ledger{program: p, placed: map[netip.Addr]placement{}, groups: map[string]held{}}
}

// changes are what to add to the kernel's table and what to remove.
type changes struct {
	sets, noSets     []string
	chains, noChains []chain
	added, removed   []element
}

func (c *changes) none() bool {
	return len(c.sets)+len(c.noSets)+len(c.chains)+len(c.noChains)+len(c.added)+len(c.removed) == 0
}

// set takes what an address stands for now, the zero placement for nothing, and
// notes what that changes. When all addresses have been set, settle notes the
// chains.
func (l *ledger) set(ip netip.Addr, next placement, c *changes) {
	last := l.placed[ip]
	if len(next.elements) == 0 {
		delete(l.placed, ip)
	} else {
		l.placed[ip] = next
	}
	was := map[element]bool{}
	for _, e := range last.elements {
		was[e] = true
	}
	for _, e := range next.elements {
		if !was[e] {
			c.added = append(c.added, e)
		}
		delete(was, e)
	}
	for e := range was {
		c.removed = append(c.removed, e)
	}
	for _, g := range next.groups {
		h := l.groups[g.name]
		l.groups[g.name] = held{g, h.pods + 1, h.there}
	}
	for _, g := range last.groups {
		h := l.groups[g.name]
		h.pods--
		l.groups[g.name] = h
	}
}

// settle notes the chains that come and go.
func (l *ledger) settle(c *changes) {
	for name, h := range l.groups {
		switch {
		case h.pods == 0:
			delete(l.groups, name)
			if h.there {
				c.noChains = append(c.noChains, h.chain)
			}
		case !h.there:
			h.there = true
			l.groups[name] = h
			c.chains = append(c.chains, h.chain)
		}
	}
}

// to finds what leads from one ledger to another one.
func (l *ledger) to(next *ledger) *changes {
	c := &changes{}
	c.sets, c.noSets = differ(l.sets(), next.sets())
	was := l.elements()
	for e := range next.elements() {
		if !was[e] {
			c.added = append(c.added, e)
		}
		delete(was, e)
	}
	for e := range was {
		c.removed = append(c.removed, e)
	}
	before, after := l.chains(), next.chains()
	for name, ch := range after {
		if _, ok := before[name]; !ok {
			c.chains = append(c.chains, ch)
		}
	}
	for name, ch := range before {
		if _, ok := after[name]; !ok {
			c.noChains = append(c.noChains, ch)
		}
	}
	return c
}

func differ(was, is map[string]bool) (added, removed []string) {
	for s := range is {
		if !was[s] {
			added = append(added, s)
		}
	}
	for s := range was {
		if !is[s] {
			removed = append(removed, s)
		}
	}
	return added, removed
}

// sets are those that the program has beside the ones that are always there.
func (l *ledger) sets() map[string]bool {
	out := map[string]bool{}
	for s := range l.program.peers {
		out[s] = true
	}
	for s := range l.program.ports {
		out[s] = true
	}
	return out
}

func (l *ledger) chains() map[string]chain {
	out := make(map[string]chain, len(l.program.chains)+len(l.groups))
	maps.Copy(out, l.program.chains)
	for name, h := range l.groups {
		out[name] = h.chain
	}
	return out
}

func (l *ledger) elements() map[element]bool {
	out := map[element]bool{}
	for _, n := range l.program.nodes {
		out[element{set: nodesSet, key: string(n.AsSlice())}] = true
	}
	for _, p := range l.placed {
		for _, e := range p.elements {
			out[e] = true
		}
	}
	return out
}
