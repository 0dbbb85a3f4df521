package service

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// ledger knows what the kernel's sets contain, and by whom. It is plain data:
// set and the elements it answers with are all there is.
type ledger struct {
	plans  map[types.NamespacedName]plan
	fronts map[key]held
	local  map[ip]int                     // how many plans have it
	behind map[key][]types.NamespacedName // who would have a front that another has
}

type held struct {
	front
	by types.NamespacedName
}

func newLedger() *ledger {
	return &ledger{
		plans: map[types.NamespacedName]plan{}, fronts: map[key]held{},
		local: map[ip]int{}, behind: map[key][]types.NamespacedName{},
	}
}

// set takes a Service's new plan, the zero one when it is gone, and answers with
// what that changes in the kernel. A front that another Service has already is
// that one's until it gives it up.
func (l *ledger) set(svc types.NamespacedName, next plan, c *changes) {
	last := l.plans[svc]
	if len(next.fronts) == 0 && len(next.local) == 0 {
		delete(l.plans, svc)
	} else {
		l.plans[svc] = next
	}
	for _, a := range next.local {
		if l.local[a]++; l.local[a] == 1 {
			c.add(phaseAdd, loops.of(a), element{key: loopKey(a)})
		}
	}
	for _, a := range last.local {
		if l.local[a]--; l.local[a] == 0 {
			delete(l.local, a)
			c.remove(phaseDrop, loops.of(a), element{key: loopKey(a)})
		}
	}
	var free []key
	keep := map[key]bool{}
	for _, f := range next.fronts {
		keep[f.key] = true
		if h, ok := l.fronts[f.key]; ok && h.by != svc {
			if !slices.Contains(l.behind[f.key], svc) {
				l.behind[f.key] = append(l.behind[f.key], svc)
				c.conflicts = append(c.conflicts, conflict{key: f.key, has: h.by, wants: svc})
			}
			continue
		}
		l.put(svc, f, c)
	}
	for _, f := range last.fronts {
		if keep[f.key] {
			continue
		}
		if l.fronts[f.key].by == svc {
			c.front(l.fronts[f.key].front, front{key: f.key})
			delete(l.fronts, f.key)
			free = append(free, f.key)
			continue
		}
		l.behind[f.key] = slices.DeleteFunc(l.behind[f.key], func(n types.NamespacedName) bool { return n == svc })
	}
	for _, k := range free {
		l.pass(k, c)
	}
}

// put has a front as it is in f.
func (l *ledger) put(svc types.NamespacedName, f front, c *changes) {
	c.front(l.fronts[f.key].front, f)
	l.fronts[f.key] = held{front: f, by: svc}
}

// pass gives a front that is free to who has waited for it.
func (l *ledger) pass(k key, c *changes) {
	waiting := l.behind[k]
	delete(l.behind, k)
	for i, svc := range waiting {
		fronts := l.plans[svc].fronts
		if j := slices.IndexFunc(fronts, func(f front) bool { return f.key == k }); j >= 0 {
			l.put(svc, fronts[j], c)
			if rest := waiting[i+1:]; len(rest) > 0 {
				l.behind[k] = rest
			}
			return
		}
	}
}

// all calls f with every element.
func (l *ledger) all(f func(set, element)) {
	for a := range l.local {
		f(loops.of(a), element{key: loopKey(a)})
	}
	for _, h := range l.fronts {
		h.elements(f)
	}
}

// has tells whether an element is as it should be.
func (l *ledger) has(s set, e element) bool {
	if s.kind() == loops {
		a := s.address(e.key)
		return l.local[a] > 0 && e.key == loopKey(a)
	}
	h, ok := l.fronts[s.front(e.key)]
	if !ok {
		return false
	}
	switch s.kind() {
	case slots, outer:
		in := h.slots
		if s.kind() == outer {
			in = h.outer
		}
		i := s.slot(e.key)
		return i < len(in) && e.value == in[i] && e.key == slotKey(h.key, i)
	case many:
		return len(h.slots) > narrow || len(h.outer) > narrow
	case sticky:
		return h.sticky
	case exposed:
		return h.exposed
	case guarded:
		return h.guarded
	case allowed:
		from := s.from(e.key)
		return slices.Contains(h.ranges, from) && e.key == allowedKey(h.key, from)
	default:
		return h.own
	}
}

// elements calls f with every element of one front.
func (f front) elements(each func(set, element)) {
	for i, b := range f.slots {
		each(slots.of(f.key.ip), element{key: slotKey(f.key, i), value: b})
	}
	for i, b := range f.outer {
		each(outer.of(f.key.ip), element{key: slotKey(f.key, i), value: b})
	}
	for _, r := range f.ranges {
		each(allowed.of(f.key.ip), element{key: allowedKey(f.key, r)})
	}
	for s, on := range f.flags() {
		if on {
			each(s.of(f.key.ip), element{key: frontKey(f.key)})
		}
	}
}

// flags are the kinds of sets that a front is in, or not.
func (f front) flags() map[set]bool {
	return map[set]bool{many: max(len(f.slots), len(f.outer)) > narrow, sticky: f.sticky, exposed: f.exposed, own: f.own, guarded: f.guarded}
}

// there says that the kernel knows the front at all.
func (f front) there() bool {
	return len(f.slots)+len(f.outer) > 0 || f.sticky || f.exposed || f.own
}

// phase orders changes. A packet that is being looked at sees two sets at two
// moments, so what is looked up last must be there first, and go last.
type phase int

const (
	phaseAdd phase = iota
	phaseTurn
	phaseDrop
	phases
)

// changes are elements to add and to remove, by phase and set. Those of one
// phase can be one transaction.
type changes struct {
	added, removed [phases][sets][]element
	gone           map[flow]bool // of UDP, which stays with an endpoint as long as packets come
	conflicts      []conflict
}

// flow is a UDP front with an endpoint that it leads to no more.
type flow struct {
	key key
	to  backend
}

// conflict is a Service that wants what another has.
type conflict struct {
	key        key
	has, wants types.NamespacedName
}

func (c *changes) add(p phase, s set, e element)    { c.added[p][s] = append(c.added[p][s], e) }
func (c *changes) remove(p phase, s set, e element) { c.removed[p][s] = append(c.removed[p][s], e) }

// front brings a front from one state to another; a zero one is one that is not
// there.
func (c *changes) front(was, is front) {
	flags, away := phaseTurn, phaseDrop
	if !was.there() || !is.there() {
		flags, away = phaseAdd, phaseAdd // nobody relies on it
	}
	c.slots(slots, is.key, was.slots, is.slots, away)
	c.slots(outer, is.key, was.outer, is.outer, away)
	c.ranges(is, was.ranges, away)
	before := was.flags()
	for s, on := range is.flags() {
		switch {
		case on && !before[s]:
			c.add(flags, s.of(is.key.ip), element{key: frontKey(is.key)})
		case !on && before[s]:
			c.remove(flags, s.of(is.key.ip), element{key: frontKey(is.key)})
		}
	}
	if is.key.protocol == unix.IPPROTO_UDP {
		c.ended(was, is)
	}
}

func (c *changes) slots(s set, k key, was, is []backend, away phase) {
	s = s.of(k.ip)
	for i := range max(len(was), len(is)) {
		switch e := slotKey(k, i); {
		case i >= len(is):
			c.remove(away, s, element{key: e, value: was[i]})
		case i >= len(was):
			c.add(phaseAdd, s, element{key: e, value: is[i]})
		case was[i] != is[i]:
			c.remove(phaseAdd, s, element{key: e, value: was[i]})
			c.add(phaseAdd, s, element{key: e, value: is[i]})
		}
	}
}

// ranges brings who is allowed from one state to another. What goes because others
// come, which it may overlap with, goes in the same transaction.
func (c *changes) ranges(is front, was []netip.Prefix, away phase) {
	if len(is.ranges) > 0 {
		away = phaseAdd
	}
	s := allowed.of(is.key.ip)
	for _, r := range was {
		if !slices.Contains(is.ranges, r) {
			c.remove(away, s, element{key: allowedKey(is.key, r)})
		}
	}
	for _, r := range is.ranges {
		if !slices.Contains(was, r) {
			c.add(phaseAdd, s, element{key: allowedKey(is.key, r)})
		}
	}
}

// ended finds the endpoints that a front does not lead to any more.
func (c *changes) ended(was, is front) {
	still := map[backend]bool{}
	for _, b := range is.slots {
		still[b] = true
	}
	for _, b := range is.outer {
		still[b] = true
	}
	for _, in := range [][]backend{was.slots, was.outer} {
		for _, b := range in {
			if !still[b] {
				if c.gone == nil {
					c.gone = map[flow]bool{}
				}
				c.gone[flow{key: is.key, to: b}] = true
			}
		}
	}
}
