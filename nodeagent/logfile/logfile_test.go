package logfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/test/bubble"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func at(sec int) time.Time { return time.Date(2026, 11, 21, 10, 0, sec, 5, time.UTC) }

func line(sec int, s Stream, text string) Line {
	return Line{Time: at(sec), Stream: s, Text: []byte(text)}
}

func newWriter(t *testing.T, path string, limit int64, files int) *Writer {
	t.Helper()
	w, err := NewWriter(path, limit, files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func write(t *testing.T, w *Writer, lines ...Line) {
	t.Helper()
	if err := w.Write(lines...); err != nil {
		t.Fatal(err)
	}
}

func readAll(t *testing.T, path string, o Options) string {
	t.Helper()
	r, err := Read(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFormat(t *testing.T) {
	l := Line{Time: at(1), Stream: Stderr, Partial: true, Text: []byte("a b  c ")}
	got := string(l.Append(nil))
	if want := "2026-11-21T10:00:01.000000005Z stderr P a b  c \n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	back, err := Parse([]byte(got))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(l, back); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", "x", "2026-11-21T10:00:01Z stdout", "2026-11-21T10:00:01Z stdlog F x", "now stdout F x", "2026-11-21T10:00:01Z stdout X x", "2026-11-21T10:00:01Z stdout  x"} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("Parse(%q): got no error", bad)
		}
	}
}

// Whatever the sizes of reads, a stream's text comes back as it was, and no
// piece is longer than MaxLine.
func TestSplitKeepsText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in bytes.Buffer
		for _, n := range rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 7, MaxLine - 1, MaxLine, MaxLine + 1, 3 * MaxLine}), 0, 6).Draw(t, "lines") {
			in.WriteString(strings.Repeat("x", n) + "\n")
		}
		in.WriteString(rapid.SampledFrom([]string{"", "tail"}).Draw(t, "tail"))
		want := in.String()
		sp := splitter{stream: Stdout}
		var lines []Line
		for in.Len() > 0 {
			lines = append(lines, sp.feed(in.Next(rapid.IntRange(1, 2*MaxLine).Draw(t, "read")), at(0))...)
		}
		lines = append(lines, sp.finish()...)
		var got strings.Builder
		for _, l := range lines {
			if len(l.Text) > MaxLine {
				t.Fatalf("a piece has %d bytes", len(l.Text))
			}
			got.Write(l.Text)
			if !l.Partial {
				got.WriteByte('\n')
			}
		}
		if g := got.String(); g != want && g != want+"\n" {
			t.Fatalf("text changed: %d bytes became %d", len(want), len(g))
		}
	})
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "log")
	w := newWriter(t, path, 200, 3)
	for i := range 20 {
		write(t, w, line(i, Stdout, fmt.Sprintf("line %02d", i)))
	}
	all, err := filepath.Glob(path + "*")
	if err != nil || len(all) != 3 {
		t.Fatalf("got files %v, want three", all)
	}
	for _, f := range all {
		st, err := os.Stat(f)
		if err != nil || st.Size() > 200 || st.Size() == 0 {
			t.Errorf("%s: %v bytes, %v; want 1 to 200", f, st.Size(), err)
		}
	}
	got := strings.Fields(strings.ReplaceAll(readAll(t, path, Options{Tail: -1}), "line ", ""))
	if len(got) < 8 || got[len(got)-1] != "19" {
		t.Fatalf("got %v", got)
	}
	for i := range got[1:] { // no gap in what is kept
		if got[i+1] <= got[i] {
			t.Errorf("out of order: %v", got)
		}
	}
	// A line larger than the limit gets a file of its own.
	write(t, w, line(30, Stdout, strings.Repeat("y", 300)))
	if got := readAll(t, path, Options{Tail: 1}); len(got) != 301 {
		t.Errorf("got %d bytes", len(got))
	}
}

func TestOptions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, path, 100, 9) // rotates every second line
	for i, s := range []string{"a", "b", "c", "d", "e"} {
		write(t, w, line(i, Stdout, s))
	}
	write(t, w, Line{Time: at(5), Stream: Stdout, Partial: true, Text: []byte("f1")}, line(6, Stdout, "f2"))
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Tail: -1}, "a\nb\nc\nd\ne\nf1f2\n"},
		{Options{Tail: 0}, ""},
		{Options{Tail: 3}, "e\nf1f2\n"},
		{Options{Tail: 4}, "d\ne\nf1f2\n"},
		{Options{Tail: 100}, "a\nb\nc\nd\ne\nf1f2\n"},
		{Options{Tail: -1, Since: at(4)}, "e\nf1f2\n"},
		{Options{Tail: 2, Timestamps: true}, "2026-11-21T10:00:05.000000005Z f1f2\n"},
	} {
		if d := cmp.Diff(c.want, readAll(t, path, c.o)); d != "" {
			t.Errorf("%+v: %s", c.o, d)
		}
	}
	if _, err := Read(t.Context(), path+"x", Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

// A follower sees every line once and in order over many rotations, then ends.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	until := make(chan struct{})
	r, err := Read(t.Context(), path, Options{Tail: -1, Follow: true, Until: until})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w := newWriter(t, path, 400, 4)
	in := bufio.NewScanner(r)
	for i := range 200 {
		want := fmt.Sprintf("line %d", i)
		write(t, w, line(i, Stdout, want))
		if !in.Scan() || in.Text() != want {
			t.Fatalf("got %q, %v, want %q", in.Text(), in.Err(), want)
		}
	}
	write(t, w, line(0, Stdout, "last"))
	close(until)
	if !in.Scan() || in.Text() != "last" {
		t.Errorf("got %q, want what was written before Until", in.Text())
	}
	if in.Scan() || in.Err() != nil {
		t.Errorf("got %q, %v, want the end", in.Text(), in.Err())
	}
}

func TestFollowEndsWithContextAndDirectory(t *testing.T) {
	d := filepath.Join(t.TempDir(), "d")
	w := newWriter(t, filepath.Join(d, "log"), 0, 0)
	write(t, w, line(0, Stdout, "x"))
	ctx, cancel := context.WithCancel(t.Context())
	r, err := Read(ctx, filepath.Join(d, "log"), Options{Tail: 0, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel()
	if _, err := r.Read(make([]byte, 10)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	r2, err := Read(t.Context(), filepath.Join(d, "log"), Options{Tail: 0, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r2.Close()
	if err := os.RemoveAll(d); err != nil {
		t.Fatal(err)
	}
	if n, err := r2.Read(make([]byte, 10)); err != io.EOF {
		t.Errorf("got %d, %v, want io.EOF", n, err)
	}
}

func TestCopyBothStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, path, 0, 0)
	Copy(w, slog.New(slog.DiscardHandler),
		Source{Stdout, strings.NewReader("o1\no2\nno newline")}, Source{Stderr, strings.NewReader("e1\n")})
	got := readAll(t, path, Options{Tail: -1})
	for _, want := range []string{"o1\n", "o2\n", "no newline\n", "e1\n"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%q is not once in %q", want, got)
		}
	}
}

// With a log that cannot be written a container's output is still read.
func TestCopyDoesNotBlockOnBadDisk(t *testing.T) {
	w := newWriter(t, filepath.Join(t.TempDir(), "log"), 0, 0)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full")
	}
	w.f.Close()
	w.f = full
	var said bytes.Buffer
	Copy(w, slog.New(slog.NewTextHandler(&said, nil)), Source{Stdout, strings.NewReader(strings.Repeat("text\n", 1e5))})
	if n := strings.Count(said.String(), "loses lines"); n != 1 {
		t.Errorf("told %d times, want once: %s", n, said.String())
	}
}

// When the writer is stuck, lines are dropped and the log says how many.
func TestOfferDropsAndTells(t *testing.T) {
	queue := make(chan []Line, 1)
	one := []Line{line(0, Stdout, "x")}
	if n := offer(queue, Stdout, one, 0); n != 0 {
		t.Fatalf("got %d dropped", n)
	}
	if n := offer(queue, Stdout, one, 1); n != 2 {
		t.Fatalf("got %d dropped, want 2", n)
	}
	<-queue
	if n := offer(queue, Stdout, one, 2); n != 0 {
		t.Fatalf("got %d dropped", n)
	}
	got := <-queue
	if len(got) != 2 || !strings.Contains(string(got[0].Text), "2 lines dropped") {
		t.Errorf("got %q", got[0].Text)
	}
}

func BenchmarkCopy(b *testing.B) {
	in := strings.Repeat(strings.Repeat("z", 99)+"\n", 10000)
	b.SetBytes(int64(len(in)))
	w, err := NewWriter(filepath.Join(b.TempDir(), "log"), 0, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	for b.Loop() {
		Copy(w, slog.New(slog.DiscardHandler), Source{Stdout, strings.NewReader(in)})
	}
}

// A stream is read in gulps: lines that come together are read together, and
// the first one after quiet at once. Who writes much does not wait for long.
func TestGulp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		queue := make(chan []Line, 1000)
		r, w := io.Pipe()
		start := time.Now()
		go func() { pump(Source{Stdout, r}, queue); close(queue) }()
		say := func(s string) time.Duration {
			_, _ = io.WriteString(w, s) // returns when it is read
			return time.Since(start)
		}
		for i, c := range []struct {
			text string
			want time.Duration
		}{{"first\n", 0}, {"soon\n", gulp}, {strings.Repeat("x", 40<<10), 2 * gulp}, {"after much\n", 2*gulp + gulp/10}} {
			if got := say(c.text); got != c.want {
				t.Errorf("%d: read after %v, want %v", i, got, c.want)
			}
		}
		time.Sleep(time.Second)
		if now, got := time.Since(start), say("late\n"); got != now {
			t.Errorf("read after %v, want %v", got, now)
		}
		w.Close()
		for range queue {
		}
		if got := time.Since(start); got > time.Second+4*gulp {
			t.Errorf("the end came after %v", got)
		}
	})
}
