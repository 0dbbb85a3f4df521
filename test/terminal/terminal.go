// Package terminal runs a program in a terminal for a test, types, and reads what the
// screen shows.
package terminal

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal is a program in a terminal of its own.
type Terminal struct {
	t      *testing.T
	master *os.File
	ended  chan struct{} // closed when nobody has the other side any more

	mu      sync.Mutex
	screen  *screen
	changed chan struct{} // closed at the next change of the screen
}

// Start starts cmd in a new terminal of the given size; it is killed at the test's end.
func Start(t *testing.T, cmd *exec.Cmd, rows, cols int) *Terminal {
	t.Helper()
	master, slave, err := open(rows, cols)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	slave.Close()
	if err != nil {
		master.Close()
		t.Fatal(err)
	}
	s := &Terminal{t: t, master: master, ended: make(chan struct{}), screen: newScreen(rows, cols), changed: make(chan struct{})}
	go s.read()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it leads its group; it may have ended
		_ = cmd.Wait()                                      // it was killed
		master.Close()
		<-s.ended
		if t.Failed() {
			t.Logf("the screen of %s:\n%s", cmd.Path, s.Screen())
		}
	})
	return s
}

func open(rows, cols int) (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	return master, slave, nil
}

// read draws until nobody writes any more.
func (s *Terminal) read() {
	defer close(s.ended)
	b := make([]byte, 1<<16)
	for {
		n, err := s.master.Read(b)
		if n > 0 {
			s.mu.Lock()
			_, _ = s.screen.Write(b[:n])
			close(s.changed)
			s.changed = make(chan struct{})
			s.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// Screen is what the screen shows now, row by row.
func (s *Terminal) Screen() string {
	text, _ := s.look()
	return text
}

func (s *Terminal) look() (text string, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.screen.String(), s.changed
}

// End waits until the program has ended, and answers with what the screen shows then.
func (s *Terminal) End() string {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.t.Fatalf("after %s the program still runs", patience)
	}
	return s.Screen()
}

// Type sends keys to the program.
func (s *Terminal) Type(keys string) {
	s.t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// Shows waits until the screen shows all of the texts at once.
func (s *Terminal) Shows(texts ...string) {
	s.t.Helper()
	s.Until(func(screen string) error {
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				return fmt.Errorf("the screen does not show %q", text)
			}
		}
		return nil
	})
}

// patience is how long a program may take to show what it should.
const patience = 30 * time.Second

// Until waits until the screen is as check wants it.
func (s *Terminal) Until(check func(screen string) error) {
	s.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		text, changed := s.look()
		err := check(text)
		if err == nil {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			s.t.Fatalf("after %s still: %v", patience, err)
		case <-s.ended:
			if text = s.Screen(); check(text) == nil {
				return
			}
			s.t.Fatalf("the program has ended: %v", err)
		}
	}
}
