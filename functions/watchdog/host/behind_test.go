package host

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/bubble"
)

// writes are the writes that came, and when.
type writes struct {
	start time.Time
	all   []string
}

func (w *writes) Write(p []byte) (int, error) {
	w.all = append(w.all, fmt.Sprintf("%v %s", time.Since(w.start), p))
	return len(p), nil
}

// Lines of calls are written together, one lag after the first of them; what is
// said at once takes them along, in order.
func TestBehind(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := &writes{start: time.Now()}
		b := &behind{to: w}
		calls, at := log.New(later{b}, "", 0), log.New(b, "", 0)
		calls.Print("a")
		time.Sleep(lag / 5)
		calls.Print("b")
		time.Sleep(2 * lag)
		calls.Print("c")
		time.Sleep(lag / 5)
		at.Print("fault")
		at.Print("again")
		time.Sleep(2 * lag)
		calls.Print("d")
		b.end()
		calls.Print("e")
		time.Sleep(2 * lag)
		want := []string{"5ms a\nb\n", "12ms c\nfault\n", "12ms again\n", "22ms d\n", "22ms e\n"}
		if !slices.Equal(w.all, want) {
			t.Errorf("got %q, want %q", w.all, want)
		}
	})
}

// No more is held than a few writes; nothing is lost or torn when many log.
func TestBehindMuch(t *testing.T) {
	var out bytes.Buffer
	b := &behind{to: &out}
	calls, at := log.New(later{b}, "", 0), log.New(b, "", 0)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 500 {
				to := calls
				if i%50 == 0 {
					to = at
				}
				to.Printf("%d %03d %s", g, i, strings.Repeat("x", 100))
			}
		})
	}
	all.Wait()
	b.mu.Lock()
	if len(b.held) > most {
		t.Errorf("%d bytes are held", len(b.held))
	}
	b.mu.Unlock()
	b.end()
	next := map[int]int{}
	for l := range strings.Lines(out.String()) {
		var g, i int
		var rest string
		if _, err := fmt.Sscanf(l, "%d %d %s", &g, &i, &rest); err != nil || len(rest) != 100 || next[g] != i {
			t.Fatalf("%q after line %d of its own, %v", l, next[g], err)
		}
		next[g]++
	}
	if len(next) != 8 || next[0] != 500 {
		t.Errorf("got %v", next)
	}
}

// A call's line is there when the watchdog has ended, however soon that is.
func TestBehindEnd(t *testing.T) {
	r := start(t, "mode=inproc")
	r.expect(t, "POST", "/", "x", 200, "x")
	r.signals <- syscall.SIGTERM
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
	if line := "POST / - 200 OK - ContentLength: 1B"; !strings.Contains(r.log.String(), line) {
		t.Errorf("no %q in\n%s", line, r.log)
	}
	r.ended <- nil
}

func BenchmarkAccess(b *testing.B) {
	for _, c := range []struct {
		name string
		to   func(*behind) io.Writer
	}{{"at once", func(b *behind) io.Writer { return b }}, {"behind", func(b *behind) io.Writer { return later{b} }}} {
		b.Run(c.name, func(b *testing.B) {
			l := log.New(c.to(&behind{to: io.Discard}), "", 0)
			for b.Loop() {
				l.Printf("GET / - 200 OK - ContentLength: %dB (%.4fs)", 2, 0.0001)
			}
		})
	}
}
