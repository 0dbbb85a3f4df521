package output

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// container is an output, and the writing ends that a container has of it.
func container(t *testing.T) (l *Output, stdout, stderr *os.File) {
	t.Helper()
	dir := t.TempDir()
	var work sync.WaitGroup
	l, err := Start(Config{Dir: filepath.Join(dir, "fifo"), Log: filepath.Join(dir, "log", "0.log"), Stdin: true, Logger: slog.New(slog.DiscardHandler)}, &work)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Stop(); work.Wait() })
	var ends [2]*os.File
	for i, path := range []string{l.Stdout, l.Stderr} {
		if ends[i], err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ends[i].Close() })
	}
	l.HandOver()
	return l, ends[0], ends[1]
}

// await waits until somebody is attached.
func await(t *testing.T, l *Output) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !l.attached(); {
		if time.Now().After(end) {
			t.Fatal("nobody is attached")
		}
	}
}

func write(t *testing.T, to io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Error(err)
	}
}

// Who is attached gets all that is written from then on, by stream, even when
// it is slow, and the log has it too.
func TestAttach(t *testing.T) {
	l, stdout, stderr := container(t)
	var out, errs bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- l.Attach(t.Context(), &out, &errs) }()
	await(t, l)
	big := strings.Repeat("0123456789abcde\n", 64<<10)
	write(t, stdout, big)
	write(t, stderr, "err\n")
	stdout.Close()
	stderr.Close()
	if err := <-done; err != nil {
		t.Errorf("attached to the end: %v", err)
	}
	if out.String() != big || errs.String() != "err\n" {
		t.Errorf("got %d and %d bytes, want %d and 4", out.Len(), errs.Len(), len(big))
	}
	if l.attached() {
		t.Error("it stays attached after its end")
	}
	log, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(l.Stdout)), "log", "0.log"))
	if err != nil || bytes.Count(log, []byte("\n")) != 64<<10+1 {
		t.Errorf("the log has %d lines, %v", bytes.Count(log, []byte("\n")), err)
	}
}

// Somebody who takes nothing holds the container up, until he goes.
func TestAttachStuck(t *testing.T) {
	l, stdout, _ := container(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	stuck, taken := io.Pipe()
	enough := errors.New("enough")
	done := make(chan error, 1)
	go func() { done <- l.Attach(ctx, taken, nil) }()
	await(t, l)
	written := make(chan struct{})
	go func() {
		defer close(written)
		write(t, stdout, strings.Repeat("x", 4<<20)) // more than the pipes between have room for
	}()
	select {
	case <-written:
		t.Error("the container was not held up")
	case <-time.After(100 * time.Millisecond):
	}
	cancel(enough)
	stuck.Close()
	if err := <-done; err == nil {
		t.Error("the attachment outlives its context")
	}
	<-written
}

func TestInput(t *testing.T) {
	l, _, _ := container(t)
	if f, err := l.OpenInput(); err == nil {
		f.Close()
		t.Error("input that nobody reads can be opened")
	}
	r, err := os.OpenFile(l.Stdin, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := l.OpenInput()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	write(t, w, "typed")
	got := make([]byte, 5)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "typed" {
		t.Errorf("got %q, %v", got, err)
	}
}

// A reader who is slow is waited for, an output that only stays open is not.
func TestLast(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name string
			slow time.Duration // each write
			want bool          // cut
		}{{"slow reader", 10 * quiet, false}, {"held open", 0, true}} {
			var l Last
			r, w := io.Pipe()
			to := l.Through(writer(func(p []byte) (int, error) {
				time.Sleep(c.slow)
				return len(p), nil
			}))
			go func() {
				write(t, w, "last")
				if !c.want {
					w.Close()
				}
			}()
			cut := false
			l.Wait(func() { _, _ = io.Copy(to, r) }, func() { cut = true; r.Close() })
			if cut != c.want {
				t.Errorf("%s: cut %v, want %v", c.name, cut, c.want)
			}
		}
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
