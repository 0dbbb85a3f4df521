package hub

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/test/bubble"
)

// wire is a port whose other end is the test.
type wire struct {
	in  chan []byte
	end chan struct{}

	mu     sync.Mutex
	frames []arrival // read them when all goroutines are blocked
}

type arrival struct {
	number uint32
	at     time.Time
}

func newWire() *wire { return &wire{in: make(chan []byte), end: make(chan struct{})} }

func (w *wire) Read(b []byte) (int, error) {
	select {
	case f := <-w.in:
		return copy(b, f), nil
	case <-w.end:
		return 0, io.EOF
	}
}

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frames = append(w.frames, arrival{binary.BigEndian.Uint32(b[14:]), time.Now()})
	return len(b), nil
}

func (w *wire) Close() error {
	close(w.end)
	return nil
}

func (w *wire) numbers() (out []uint32) {
	for _, a := range w.frames {
		out = append(out, a.number)
	}
	return out
}

func address(i byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, i} }

var everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// frameTo is a frame that is told by its number.
func frameTo(to net.HardwareAddr, number uint32) []byte {
	b := append(slices.Clone(to), 2, 0, 0, 0, 0, 99, 8, 0)
	return binary.BigEndian.AppendUint32(b, number)
}

// rig is a hub with three hosts, in a bubble.
func rig(t *testing.T, seed uint64) (*Hub, map[string]*wire) {
	t.Helper()
	h := New(seed, Member{"a", address(0)}, Member{"b", address(1)}, Member{"c", address(2)})
	wires := map[string]*wire{}
	for _, n := range []string{"a", "b", "c"} {
		wires[n] = newWire()
		h.Plug(n, wires[n])
	}
	t.Cleanup(h.Close)
	return h, wires
}

func TestForward(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(*Hub)
		to    net.HardwareAddr // from a
		want  map[string]int
	}{
		{"to one", func(*Hub) {}, address(1), map[string]int{"b": 1}},
		{"to everybody", func(*Hub) {}, everybody, map[string]int{"b": 1, "c": 1}},
		{"to nobody's address", func(*Hub) {}, address(77), map[string]int{"b": 1, "c": 1}},
		{"to itself", func(*Hub) {}, address(0), nil},
		{"partition", func(h *Hub) { h.Partition("b", "a") }, everybody, map[string]int{"c": 1}},
		{"cut one way", func(h *Hub) { h.Cut("a", "b") }, address(1), nil},
		{"cut the other way", func(h *Hub) { h.Cut("b", "a") }, address(1), map[string]int{"b": 1}},
		{"isolated", func(h *Hub) { h.Isolate("a") }, everybody, nil},
		{"another is isolated", func(h *Hub) { h.Isolate("c") }, everybody, map[string]int{"b": 1}},
		{"stands still", func(h *Hub) { h.Still("b", true) }, everybody, map[string]int{"c": 1}},
		{"stood still", func(h *Hub) { h.Still("b", true); h.Still("b", false) }, everybody, map[string]int{"b": 1, "c": 1}},
		{"healed", func(h *Hub) { h.Isolate("a"); h.Heal() }, address(1), map[string]int{"b": 1}},
		{"healing wakes nobody", func(h *Hub) { h.Still("a", true); h.Heal() }, everybody, nil},
		{"all is lost", func(h *Hub) { h.Loss("a", "b", 1) }, everybody, map[string]int{"c": 1}},
		{"all is doubled", func(h *Hub) { h.Duplicate(All, "b", 1) }, everybody, map[string]int{"b": 2, "c": 1}},
		{"unplugged", func(h *Hub) { h.Unplug("b") }, everybody, map[string]int{"c": 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				h, wires := rig(t, 1)
				c.fault(h)
				wires["a"].in <- frameTo(c.to, 7)
				synctest.Wait()
				for name, w := range wires {
					if got := len(w.frames); got != c.want[name] {
						t.Errorf("%s got %d frames, want %d", name, got, c.want[name])
					}
				}
			})
		})
	}
}

// A frame arrives when its delay is over, in one direction only, and never
// before one that was sent earlier.
func TestDelay(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h, wires := rig(t, 1)
		start := time.Now()
		send := func(from, to string, number uint32) {
			wires[from].in <- frameTo(h.members[h.place[to]].MAC, number)
			synctest.Wait()
		}
		h.Delay("a", "b", 10*time.Millisecond)
		send("a", "b", 1)
		send("b", "a", 2)
		time.Sleep(4 * time.Millisecond)
		h.Delay("a", "b", time.Millisecond)
		send("a", "b", 3) // would be there at 5 ms
		h.Heal()
		send("a", "b", 4) // would be there now
		time.Sleep(time.Second)
		synctest.Wait()
		if got := wires["b"].numbers(); !slices.Equal(got, []uint32{1, 3, 4}) {
			t.Errorf("b got %v in this order", got)
		}
		for _, a := range wires["b"].frames {
			if d := a.at.Sub(start); d != 10*time.Millisecond {
				t.Errorf("frame %d came after %s", a.number, d)
			}
		}
		if f := wires["a"].frames; len(f) != 1 || f[0].at != start {
			t.Errorf("the way back: %v", f)
		}
		send("a", "b", 5)
		if f := wires["b"].frames; len(f) != 4 || f[3].at != start.Add(1004*time.Millisecond) {
			t.Errorf("without a delay again: %v", f)
		}
	})
}

// A line that is full loses what comes, and its buffers do not grow.
func TestLineIsFull(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h, wires := rig(t, 1)
		h.Delay("a", "b", time.Hour)
		for i := range uint32(longest + 10) {
			wires["a"].in <- frameTo(address(1), i)
		}
		synctest.Wait()
		if _, lost := h.Counts("a", "b"); lost != 10 {
			t.Errorf("%d frames are lost, want 10", lost)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got, _ := h.Counts("a", "b"); got != longest {
			t.Errorf("%d frames have arrived, want %d", got, longest)
		}
	})
}

// The same seed loses the same frames, whatever is sent elsewhere.
func TestSeed(t *testing.T) {
	run := func(seed uint64, noise bool) (out []uint32) {
		bubble.Test(t, func(t *testing.T) {
			h, wires := rig(t, seed)
			h.Loss("a", "b", 0.2)
			h.Loss("c", All, 0.5)
			for i := range uint32(1000) {
				if noise {
					wires["c"].in <- frameTo(everybody, 1e6)
				}
				wires["a"].in <- frameTo(address(1), i)
			}
			synctest.Wait()
			out = slices.DeleteFunc(wires["b"].numbers(), func(n uint32) bool { return n == 1e6 })
		})
		return out
	}
	one := run(1, false)
	if len(one) < 750 || len(one) > 850 {
		t.Errorf("%d of 1000 frames arrived with a loss of 20 %%", len(one))
	}
	if two := run(1, true); !slices.Equal(one, two) {
		t.Errorf("the same seed: %d and %d frames, or others", len(one), len(two))
	}
	if other := run(2, false); slices.Equal(one, other) {
		t.Error("another seed lost the same frames")
	}
}

func TestCopies(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l := Link{Loss: 0.1, Duplicate: 0.1}
	count := map[int]int{}
	for range 100_000 {
		count[l.copies(r)]++
	}
	// 10 % lost, 10 % of the rest twice.
	for n, want := range map[int]int{0: 10_000, 1: 81_000, 2: 9_000} {
		if got := count[n]; got < want*95/100 || got > want*105/100 {
			t.Errorf("%d of 100,000 frames came %d times, want about %d", got, n, want)
		}
	}
}

// A frame costs no memory, on the way at once and on the way with a delay.
func TestNoAllocations(t *testing.T) {
	h := New(1, Member{"a", address(0)}, Member{"b", address(1)})
	defer h.Close()
	h.Plug("b", sink{make(chan struct{})})
	f := frameTo(address(1), 1)
	if n := testing.AllocsPerRun(1000, func() { h.forward(0, f) }); n != 0 {
		t.Errorf("a frame costs %v allocations", n)
	}
}

// sink takes all that is written.
type sink struct{ end chan struct{} }

func (s sink) Read([]byte) (int, error)    { <-s.end; return 0, errors.New("closed") }
func (s sink) Write(b []byte) (int, error) { return len(b), nil }
func (s sink) Close() error                { close(s.end); return nil }
