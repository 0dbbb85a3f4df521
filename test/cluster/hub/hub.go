// Package hub joins hosts as a switch does: it forwards Ethernet frames between
// their ports. It knows who has which address and so has nothing to learn, and
// every direction between two hosts can be cut, slowed down, made to lose and to
// duplicate.
package hub

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// MTU is the largest packet that goes through, without the frame's header.
const MTU = 1500

// maxFrame is an Ethernet header, a VLAN tag and a packet.
const maxFrame = 14 + 4 + MTU

// mac is an Ethernet address.
type mac [6]byte

// group says whether a frame to it is for many.
func (m mac) group() bool { return m[0]&1 == 1 }

// Member is a host that can be plugged in.
type Member struct {
	Name string
	MAC  net.HardwareAddr
}

// Port is a host's end of the cable: a Read is one frame, a Write is one frame.
// Close has a Read that waits return.
type Port = io.ReadWriteCloser

// Hub is a switch with a place for each of its members. Its methods take names
// of members and panic for others; All stands for every one of them.
type Hub struct {
	members []Member
	place   map[string]int
	owner   map[mac]int

	rules  atomic.Pointer[rules]
	change sync.Mutex // one changes rules at a time

	plugs  []atomic.Pointer[plug]
	random []*rand.Rand // of each direction; the reader of its sender uses it
	lines  []*line      // of each direction
	counts []counts     // of each direction
	end    chan struct{}
	wg     sync.WaitGroup
}

// All is every member.
const All = ""

type plug struct {
	port Port
	done chan struct{} // closed when its reader has ended
}

type counts struct{ delivered, lost atomic.Int64 }

// New makes a hub. The same seed loses the same frames of the same traffic. It
// is to be closed.
func New(seed uint64, members ...Member) *Hub {
	n := len(members)
	h := &Hub{
		members: members, place: map[string]int{}, owner: map[mac]int{},
		plugs: make([]atomic.Pointer[plug], n), random: make([]*rand.Rand, n*n), lines: make([]*line, n*n), counts: make([]counts, n*n),
		end: make(chan struct{}),
	}
	h.rules.Store(newRules(n))
	for i, m := range members {
		h.place[m.Name] = i
		h.owner[mac(m.MAC)] = i
	}
	for d := range n * n {
		h.random[d] = rand.New(rand.NewPCG(seed, uint64(d)))
		to := d % n
		h.lines[d] = &line{wake: make(chan struct{}, 1), deliver: func(b []byte) { h.deliver(d, to, b) }}
		h.wg.Go(func() { h.lines[d].run(h.end) })
	}
	return h
}

// Close unplugs everybody and ends the hub.
func (h *Hub) Close() {
	for _, m := range h.members {
		h.Unplug(m.Name)
	}
	close(h.end)
	h.wg.Wait()
}

func (h *Hub) of(name string) int {
	i, ok := h.place[name]
	if !ok {
		panic(fmt.Sprintf("hub: there is no host %q", name))
	}
	return i
}

// Plug joins a host to the hub, in the place of a port that it had before. The
// hub closes the port.
func (h *Hub) Plug(name string, p Port) {
	h.Unplug(name)
	i := h.of(name)
	pl := &plug{port: p, done: make(chan struct{})}
	h.plugs[i].Store(pl)
	go func() {
		defer close(pl.done)
		var b [maxFrame]byte
		for {
			n, err := p.Read(b[:])
			if err != nil {
				return // it was unplugged, or the host is no more
			}
			h.forward(i, b[:n])
		}
	}()
}

// Unplug pulls a host's cable: its port is closed.
func (h *Hub) Unplug(name string) {
	if pl := h.plugs[h.of(name)].Swap(nil); pl != nil {
		_ = pl.port.Close()
		<-pl.done
	}
}

// forward passes one frame on. The buffer is the caller's.
func (h *Hub) forward(from int, frame []byte) {
	if len(frame) < 14 {
		return
	}
	r := h.rules.Load()
	to, known := h.owner[mac(frame[:6])]
	if known && !mac(frame[:6]).group() {
		if to != from {
			h.send(r, from, to, frame)
		}
		return
	}
	for to := range h.members {
		if to != from {
			h.send(r, from, to, frame)
		}
	}
}

func (h *Hub) send(r *rules, from, to int, frame []byte) {
	d := from*len(h.members) + to
	l := r.link(from, to)
	n := l.copies(h.random[d])
	if n == 0 {
		h.counts[d].lost.Add(1)
		return
	}
	for range n {
		if !h.lines[d].pass(frame, l.Delay) {
			h.counts[d].lost.Add(1)
		}
	}
}

func (h *Hub) deliver(d, to int, frame []byte) {
	pl := h.plugs[to].Load()
	if pl == nil {
		h.counts[d].lost.Add(1)
		return
	}
	if _, err := pl.port.Write(frame); err != nil { // it is going away
		h.counts[d].lost.Add(1)
		return
	}
	h.counts[d].delivered.Add(1)
}

// Counts is how many frames of a direction have arrived and have not.
func (h *Hub) Counts(from, to string) (delivered, lost int64) {
	c := &h.counts[h.of(from)*len(h.members)+h.of(to)]
	return c.delivered.Load(), c.lost.Load()
}

func (h *Hub) alter(change func(*rules)) {
	h.change.Lock()
	defer h.change.Unlock()
	r := h.rules.Load().clone()
	change(r)
	h.rules.Store(r)
}

// Shape changes the links from one host to another.
func (h *Hub) Shape(from, to string, change func(*Link)) {
	number := func(name string) int {
		if name == All {
			return -1
		}
		return h.of(name)
	}
	f, t := number(from), number(to)
	h.alter(func(r *rules) { r.each(f, t, change) })
}

// Cut has nothing of one host arrive at another; the way back stays.
func (h *Hub) Cut(from, to string) { h.Shape(from, to, func(l *Link) { l.Cut = true }) }

// Partition cuts both ways between two hosts.
func (h *Hub) Partition(a, b string) {
	h.Cut(a, b)
	h.Cut(b, a)
}

// Isolate cuts a host off from all others.
func (h *Hub) Isolate(name string) { h.Partition(name, All) }

// Delay has the frames of a direction arrive so much later.
func (h *Hub) Delay(from, to string, d time.Duration) {
	h.Shape(from, to, func(l *Link) { l.Delay = d })
}

// Loss has a share of the frames of a direction not arrive.
func (h *Hub) Loss(from, to string, share float64) {
	h.Shape(from, to, func(l *Link) { l.Loss = share })
}

// Duplicate has a share of the frames of a direction arrive twice.
func (h *Hub) Duplicate(from, to string, share float64) {
	h.Shape(from, to, func(l *Link) { l.Duplicate = share })
}

// Heal makes all links good again. Who stands still goes on doing so.
func (h *Hub) Heal() { h.Shape(All, All, func(l *Link) { *l = Link{} }) }

// Still has a host stand still, or not any more: what is sent to it meanwhile is
// lost, as to a machine that is paused.
func (h *Hub) Still(name string, still bool) {
	i := h.of(name)
	h.alter(func(r *rules) { r.still[i] = still })
}
