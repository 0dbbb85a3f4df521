package output

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// reading is a FIFO's reading end, and what writes to it.
func reading(t *testing.T) (*pipe, *os.File) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	if err := fifo(dir, path); err != nil {
		t.Fatal(err)
	}
	r, err := openPipe(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return r, w
}

func take(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, 100)
	if n, err := r.Read(got); err != nil || string(got[:n]) != want {
		t.Errorf("got %q, %v, want %q", got[:n], err, want)
	}
}

// rings tells whether the runtime's poller would have been woken.
func rings(t *testing.T, r *pipe) (yes bool) {
	t.Helper()
	if err := r.raw.Control(func(fd uintptr) { yes = r.rung(fd) }); err != nil {
		t.Fatal(err)
	}
	return yes
}

// Lines that nobody waits for wake nobody, however many there are, and are all
// there at the next read; who waits gets the first one.
func TestPipeIsQuiet(t *testing.T) {
	r, w := reading(t)
	write(t, w, "one ")
	write(t, w, "two")
	if rings(t, r) {
		t.Error("it rings before anybody has waited")
	}
	take(t, r, "one two")
	for i := range 100 {
		if _, err := r.take(make([]byte, 1)); !errors.Is(err, unix.EAGAIN) { // as a Read that comes to wait
			t.Fatalf("got %v, want %v", err, unix.EAGAIN)
		}
		if rings(t, r) {
			t.Fatal("it rings and nothing has come")
		}
		line := fmt.Sprint("line ", i)
		write(t, w, line)
		if !rings(t, r) {
			t.Fatal("who waits is not woken")
		}
		write(t, w, " and more")
		if rings(t, r) {
			t.Fatal("it rings twice for one wait")
		}
		take(t, r, line+" and more")
		write(t, w, "x")
		if rings(t, r) {
			t.Fatal("it rings for nobody")
		}
		take(t, r, "x")
	}
}

// A Read that waits ends with a line, with the end of the writers, and with
// Close; afterwards no descriptor is left.
func TestPipeWaits(t *testing.T) {
	before := descriptors(t)
	for _, c := range []struct {
		name string
		do   func(*pipe, *os.File)
		want string
		err  error
	}{
		{"line", func(_ *pipe, w *os.File) { write(t, w, "line") }, "line", nil},
		{"end", func(_ *pipe, w *os.File) { w.Close() }, "", io.EOF},
		{"closed", func(r *pipe, _ *os.File) { r.Close() }, "", os.ErrClosed},
	} {
		for range 50 { // the Read comes before and after
			r, w := reading(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				got := make([]byte, 100)
				n, err := r.Read(got)
				if string(got[:n]) != c.want || !errors.Is(err, c.err) {
					t.Errorf("%s: got %q, %v", c.name, got[:n], err)
				}
			}()
			c.do(r, w)
			<-done
			r.Close()
			w.Close()
			if err := r.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("closed again: %v", err)
			}
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
				t.Errorf("read when closed: %v", err)
			}
		}
	}
	if after := descriptors(t); after > before+1 { // the poller's own, of the first one
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// Much is read through, in order.
func TestPipeMuch(t *testing.T) {
	r, w := reading(t)
	text := strings.Repeat("0123456789abcdef", 64<<10)
	go func() {
		defer w.Close()
		_, _ = io.WriteString(w, text)
	}()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != text {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(text))
	}
}

func TestPipeAbsent(t *testing.T) {
	if _, err := openPipe(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
