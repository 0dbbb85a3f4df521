package handover_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/internal/handover"
	"github.com/podsnap/podsnap/internal/handover/hold"
	"github.com/podsnap/podsnap/internal/pause"
)

// program builds the holder, once.
var program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "holder-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "holder")
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, "./holder")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the holder: %w\n%s", err, b)
	}
	return os.ReadFile(out)
})

func open(t *testing.T, dir string) *handover.Sockets {
	t.Helper()
	t.Setenv("NOTIFY_SOCKET", "") // whoever runs the test is no part of it
	os.Unsetenv("NOTIFY_SOCKET")
	return handover.Open(t.Context(), handover.Config{Dir: dir, Program: program})
}

// shortDir is a folder with room for a socket's path.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ho")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := handover.Dismiss(ctx, dir); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return dir
}

func listen(t *testing.T, s *handover.Sockets, name, addr string) net.Listener {
	t.Helper()
	l, err := s.Listen(t.Context(), name, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// free finds an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A socket and a connection go from one process to the next: who connects in
// between waits, and what was sent in between is there.
func TestHandover(t *testing.T) {
	dir, addr := shortDir(t), free(t)
	first := open(t, dir)
	l := listen(t, first, "listen", addr)
	client, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if !first.Leave(conn) {
		t.Fatal("the connection can't be left")
	}
	conn.Close()
	l.Close()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// Nobody is there.
	fmt.Fprint(client, "meanwhile")
	waits, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("nobody keeps the socket: %v", err)
	}
	defer waits.Close()
	fmt.Fprint(waits, "waiting")

	second := open(t, dir)
	l = listen(t, second, "listen", addr)
	left := second.Idle()
	if len(left) != 1 || left[0].RemoteAddr().String() != client.LocalAddr().String() {
		t.Fatalf("%d connections were left, want the one", len(left))
	}
	defer left[0].Close()
	expect(t, left[0], "meanwhile")
	second.Settle()
	next, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	expect(t, next, "waiting")

	// It is kept for the third too, and connections are left to one process alone.
	l.Close()
	second.Close()
	third := open(t, dir)
	l = listen(t, third, "listen", addr)
	if left := third.Idle(); len(left) != 0 {
		t.Errorf("%d connections are left twice", len(left))
	}
	l.Close()
	if err := third.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again, err := net.Listen("tcp", addr); err != nil {
		t.Errorf("the address is not free: %v", err)
	} else {
		again.Close()
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Errorf("read %q, want %q: %v", b, want, err)
	}
}

// A process that wants another address lets go of the former one.
func TestAnotherAddress(t *testing.T) {
	dir, one, two, more := shortDir(t), free(t), free(t), free(t)
	first := open(t, dir)
	listen(t, first, "listen", one).Close()
	listen(t, first, "tls-listen", more).Close()
	first.Close()
	second := open(t, dir)
	l := listen(t, second, "listen", two)
	defer l.Close()
	second.Settle()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, addr := range []string{one, more} {
		for {
			free, err := net.Listen("tcp", addr)
			if err == nil {
				free.Close()
				break
			}
			if !pause.For(ctx, 5*time.Millisecond) { // the holder reads what it was told
				t.Fatalf("%s is not free: %v", addr, err)
			}
		}
	}
	if err := second.Forget(t.Context()); err != nil {
		t.Error(err)
	}
}

// A holder that is killed is replaced by one that has the same.
func TestHolderKilled(t *testing.T) {
	dir, addr := shortDir(t), free(t)
	s := open(t, dir)
	l := listen(t, s, "listen", addr)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	was := holderOf(t, 0)
	if err := unix.Kill(was, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	holderOf(t, was)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	l.Close()
	s.Close()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("nobody keeps the socket: %v", err)
	}
	c.Close()
}

// holderOf finds the holder that this process has started, another one than not.
func holderOf(t *testing.T, not int) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		children, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, exe := range children {
			target, _ := os.Readlink(exe)
			if !strings.HasPrefix(target, "/memfd:podsnap-sockets") {
				continue
			}
			var pid int
			fmt.Sscanf(exe, "/proc/%d/exe", &pid)
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			_, rest, _ := strings.Cut(string(stat), ") ")
			if f := strings.Fields(rest); len(f) > 1 && f[1] == fmt.Sprint(os.Getpid()) && f[0] != "Z" && pid != not {
				return pid
			}
		}
		if !pause.For(ctx, 5*time.Millisecond) {
			t.Fatal("there is no holder")
		}
	}
}

// Without a keeper everything else works.
func TestNoKeeper(t *testing.T) {
	s := handover.Open(t.Context(), handover.Config{Dir: filepath.Join(t.TempDir(), "none"), Program: program})
	l, err := s.Listen(t.Context(), "listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s.Leave(c) || len(s.Idle()) > 0 {
		t.Error("something is kept by nobody")
	}
	if err := errors.Join(s.Forget(t.Context()), s.Close()); err != nil {
		t.Error(err)
	}
}

// A holder to which nobody comes ends, and one that is told what it does not know
// goes on.
func TestHold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	l.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	done := make(chan error, 1)
	begun := time.Now()
	fd := int(f.Fd())
	go func() { done <- hold.Run(fd, 100*time.Millisecond) }()
	c, err := net.Dial("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, m := range []string{"COMES=later", "FDSTORE=1\nFDNAME=a\nFDPOLL=0\nNEW=x", "TAKE=1\nAND=more"} {
		var oob []byte
		if m[0] == 'F' {
			oob = unix.UnixRights(int(w.Fd()))
		}
		if _, _, err := c.(*net.UnixConn).WriteMsgUnix([]byte(m), oob, nil); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	for _, want := range []string{"FDNAME=a", "END=1"} {
		b, oob := make([]byte, 100), make([]byte, 100)
		n, k, _, _, err := c.(*net.UnixConn).ReadMsgUnix(b, oob)
		if err != nil || string(b[:n]) != want {
			t.Fatalf("it answers %q %v, want %q", b[:n], err, want)
		}
		for _, fd := range hold.Rights(oob[:k]) {
			unix.Close(fd)
		}
	}
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if d := time.Since(begun); d < 100*time.Millisecond {
		t.Errorf("it ended after %v already", d)
	}
	if n, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("it has not closed what it held: %d %v", n, err)
	}
}
