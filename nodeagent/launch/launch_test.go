package launch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/program"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("os/signal.signal_recv"))
}

// shell is a program that becomes a shell. It needs a namespace as its input,
// as all programs of Start do.
func shell(t *testing.T, script string) program.Program {
	t.Helper()
	var b program.Builder
	b.Call("enter", unix.SYS_SETNS, program.Input(0), program.Int(unix.CLONE_NEWNET)).AllowAny()
	b.Call("exec", unix.SYS_EXECVE, program.Text("/bin/sh"), program.Texts([]string{"sh", "-c", script}), program.Texts(nil))
	p, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serve runs a launcher in this process and connects to it; the exits come by
// the channel.
func serve(t *testing.T, dir string) (c *Conn, exits chan Process, stop func()) {
	t.Helper()
	s, err := NewServer(filepath.Join(dir, "processes"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(Socket(dir))
	l, err := net.Listen("unix", Socket(dir))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	raw, err := net.Dial("unix", Socket(dir))
	if err != nil {
		t.Fatal(err)
	}
	exits = make(chan Process, 100)
	c = newConn(raw, func(p Process) { exits <- p })
	return c, exits, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		c.close(nil)
		<-c.read
	}
}

func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pl") // a unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func do(t *testing.T, c *Conn, q Request, image []byte) Reply {
	t.Helper()
	r, err := c.Do(t.Context(), q, image)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func exit(t *testing.T, exits chan Process, id string) Process {
	t.Helper()
	for {
		select {
		case p := <-exits:
			if p.ID == id {
				return p
			}
		case <-time.After(time.Minute):
			t.Fatalf("no exit of %s", id)
		}
	}
}

func TestLife(t *testing.T) {
	dir := short(t)
	c, exits, stop := serve(t, dir)
	do(t, c, Request{Op: Hold, Name: "ns", Path: "/proc/self/ns/net"}, nil)
	for id, want := range map[string]struct {
		script string
		code   int
	}{"zero": {"true", 0}, "seven": {"exit 7", 7}, "term": {"kill -TERM $$", 128 + 15}, "kill": {"kill -KILL $$", 128 + 9}} {
		r := do(t, c, Request{Op: Start, ID: id, Name: "ns"}, shell(t, want.script).Image)
		if x := exit(t, exits, id); x.Code != want.code || x.Pid != r.Pid || !x.Ended {
			t.Errorf("%s: got %+v, want code %d of %d", id, x, want.code, r.Pid)
		}
	}
	do(t, c, Request{Op: Forget, ID: "zero"}, nil)
	do(t, c, Request{Op: Start, ID: "on", Name: "ns"}, shell(t, "exec sleep 1000").Image)
	w := do(t, c, Request{Op: Hello}, nil).Hello
	if w.Version != Version || w.Pid != os.Getpid() || len(w.Processes) != 4 || w.Held["ns"] == 0 {
		t.Errorf("got %+v", w)
	}
	for what, q := range map[string]Request{
		"there, or that": {Op: Start, ID: "on", Name: "ns"}, "no name": {Op: Start, ID: "../x", Name: "ns"}, "nothing is held": {Op: Start, ID: "x", Name: "other"},
		"not known": {Op: "dance"}, "no such thing": {Op: Exec, ID: "e", Of: "zero"}, "no such file": {Op: Hold, Name: "x", Path: "/nope"},
	} {
		if _, err := c.Do(t.Context(), q, shell(t, "true").Image); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%+v: got %v, want %q", q, err, what)
		}
	}
	if _, err := c.Do(t.Context(), Request{Op: Signal, ID: "nope", Sig: syscall.SIGTERM}, nil); !errors.Is(err, ErrNone) {
		t.Errorf("got %v, want ErrNone", err)
	}
	do(t, c, Request{Op: Signal, ID: "seven", Sig: syscall.SIGTERM}, nil) // has ended
	if _, err := c.Do(t.Context(), Request{Op: Start, ID: "bad", Name: "ns"}, []byte("garbage")); err == nil {
		t.Error("garbage was run")
	}
	var b program.Builder
	b.Call("go nowhere", unix.SYS_CHDIR, program.Text("/nope"))
	p, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Do(t.Context(), Request{Op: Start, ID: "bad", Name: "ns"}, p.Image)
	f, ok := errors.AsType[*program.Fault](err)
	if !ok || f.Call != 0 || f.Errno != syscall.ENOENT {
		t.Errorf("got %v, want the fault", err)
	}

	// Another launcher adopts what runs and knows what has ended.
	stop()
	c, exits, stop = serve(t, dir)
	defer stop()
	w = do(t, c, Request{Op: Hello}, nil).Hello
	got := map[string]Process{}
	for _, p := range w.Processes {
		got[p.ID] = p
	}
	if len(got) != 4 || got["seven"].Code != 7 || !got["seven"].Ended || got["on"].Ended || len(w.Held) != 0 {
		t.Errorf("got %+v", w)
	}
	do(t, c, Request{Op: Signal, ID: "on", Sig: syscall.SIGKILL}, nil)
	if x := exit(t, exits, "on"); x.Code != 137 {
		t.Errorf("got %+v", x)
	}
}

// A process with the number of a recorded one is not taken for it.
func TestAnotherProcess(t *testing.T) {
	dir := short(t)
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	processes := filepath.Join(dir, "processes")
	if err := os.MkdirAll(processes, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"gone.json": fmt.Sprintf(`{"id":"gone","pid":%d,"identity":"i1"}`, other.Process.Pid), "half.json": `{"id":"ha`, "wrong.json": `{"id":"../x"}`,
	} {
		if err := os.WriteFile(filepath.Join(processes, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, _, stop := serve(t, dir)
	defer stop()
	w := do(t, c, Request{Op: Hello}, nil).Hello
	if len(w.Processes) != 1 || !w.Processes[0].Ended || w.Processes[0].Code != lostCode {
		t.Errorf("got %+v, want one that has ended", w.Processes)
	}
	do(t, c, Request{Op: Signal, ID: "gone", Sig: syscall.SIGKILL}, nil)
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process was hit: %v", err)
	}
}

// The answer to a request of a keeper that has lost its launcher is an error.
func TestLost(t *testing.T) {
	dir := short(t)
	c, _, stop := serve(t, dir)
	stop()
	if _, err := c.Do(t.Context(), Request{Op: Hello}, nil); !errors.Is(err, ErrLost) {
		t.Errorf("got %v, want ErrLost", err)
	}
}

// deaf is a connection whose other end has gone, which nobody has noticed yet.
type deaf struct{ net.Conn }

func (deaf) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// A start that the launcher cannot have read is asked of the next one.
func TestUnsent(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	broken := newConn(deaf{near}, nil)
	next, exits, stop := serve(t, short(t))
	defer stop()
	k := NewKeeper(Config{})
	k.conn = broken
	go func() {
		<-broken.read
		k.mu.Lock()
		k.conn = next
		k.mu.Unlock()
		close(broken.gone)
	}()
	do(t, next, Request{Op: Hold, Name: "ns", Path: "/proc/self/ns/net"}, nil)
	if _, err := k.Do(t.Context(), Request{Op: Start, ID: "seven", Name: "ns"}, shell(t, "exit 7").Image); err != nil {
		t.Fatal(err)
	}
	if x := exit(t, exits, "seven"); x.Code != 7 {
		t.Errorf("got %+v", x)
	}
}

func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	if err := writeFrame(&b, Request{Op: Start, ID: "x"}, []byte("program")); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(binary.LittleEndian.AppendUint64(nil, 1<<40))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q Request
		program, err := readFrame(bufio.NewReader(bytes.NewReader(b)), &q)
		if err == nil && len(program) > len(b) {
			t.Errorf("%d bytes out of %d", len(program), len(b))
		}
	})
}
