package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Command is a process to be. Its program is looked for in the host's PATH.
type Command struct {
	Args  []string
	Env   []string // beside PATH and HOME
	Dir   string   // in the host; "" is /
	Stdin *os.File // nil is /dev/null
	Out   *os.File // standard output and error; nil is /dev/null
	Err   *os.File // standard error when it is not nil
}

// Process is one that was started on a host.
type Process struct {
	Pid int // in the host's pid namespace

	p      *power
	id     int
	done   chan struct{}
	status unix.WaitStatus // when done is closed
}

// errCut is the end of a process whose host was switched off.
var errCut = errors.New("the host was switched off")

// Start starts a process. Its files stay the caller's, who can close them; they
// are made to block, as programs expect it.
func (h *Host) Start(c Command) (*Process, error) {
	p, err := h.on()
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	in, out := null, null
	if c.Stdin != nil {
		in = c.Stdin
	}
	if c.Out != nil {
		out = c.Out
	}
	errs := out
	if c.Err != nil {
		errs = c.Err
	}
	proc, answer := p.enter()
	m := message{Op: opStart, ID: proc.id, Path: c.Args[0], Args: c.Args, Dir: c.Dir, Env: append([]string{"PATH=" + searched, "HOME=/var/lib"}, c.Env...)}
	// Not File.Fd, which would have files block from now on.
	if err := withFds(func(fds []int) error { return p.conn.send(m, fds...) }, in, out, errs); err != nil {
		p.leave(proc.id)
		return nil, fmt.Errorf("%s: start %s: %w", h.Name, c.Args[0], err)
	}
	got := <-answer
	if got.Error != "" {
		p.leave(proc.id)
		return nil, fmt.Errorf("%s: start %s: %s", h.Name, c.Args[0], got.Error)
	}
	proc.Pid = got.Pid
	return proc, nil
}

// withFds hands out descriptors that are there as long as f runs.
func withFds(f func(fds []int) error, files ...*os.File) error {
	var fds []int
	var call func(i int) error
	call = func(i int) error {
		if i == len(files) {
			return f(fds)
		}
		raw, err := files[i].SyscallConn()
		if err != nil {
			return err
		}
		var inner error
		err = raw.Control(func(fd uintptr) {
			fds = append(fds, int(fd))
			if inner = unix.SetNonblock(int(fd), false); inner == nil {
				inner = call(i + 1)
			}
		})
		return errors.Join(err, inner)
	}
	return call(0)
}

func (p *power) enter() (*Process, chan message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	proc := &Process{p: p, id: p.next, done: make(chan struct{})}
	answer := make(chan message, 1)
	if p.gone != nil {
		answer <- message{Error: p.gone.Error()}
		return proc, answer
	}
	p.waiting[p.next], p.running[p.next] = answer, proc
	return proc, answer
}

func (p *power) leave(id int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, id)
	delete(p.running, id)
}

// read takes what the first process tells until the host is off.
func (p *power) read() {
	for {
		m, _, err := p.conn.receive()
		p.mu.Lock()
		if err != nil {
			p.gone = errCut
			for id, w := range p.waiting {
				w <- message{ID: id, Error: errCut.Error()}
				delete(p.waiting, id)
			}
			for id, proc := range p.running {
				proc.status = unix.WaitStatus(unix.SIGKILL)
				close(proc.done)
				delete(p.running, id)
			}
			p.mu.Unlock()
			return
		}
		switch m.Op {
		case opStarted:
			if w := p.waiting[m.ID]; w != nil {
				w <- m
				delete(p.waiting, m.ID)
			}
		case opExited:
			if proc := p.running[m.ID]; proc != nil {
				proc.status = unix.WaitStatus(m.Status)
				close(proc.done)
				delete(p.running, m.ID)
			}
		}
		p.mu.Unlock()
	}
}

// Kill sends a signal; a process that has ended takes none.
func (p *Process) Kill(s unix.Signal) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	return p.p.conn.send(message{Op: opSignal, ID: p.id, Signal: int(s)})
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns when the process has ended: nil for success.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	switch s := p.status; {
	case s.Signaled():
		return fmt.Errorf("it was ended by a signal: %s", s.Signal())
	case s.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", s.ExitStatus())
	}
	return nil
}

// Run runs a program on the host and answers with what it wrote to standard
// output. The error has what it wrote to standard error. When ctx is done it is
// killed.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	return h.RunWith(ctx, Command{Args: args}, "")
}

// RunWith is Run with more to say, and with an input.
func (h *Host) RunWith(ctx context.Context, c Command, stdin string) (string, error) {
	var out, errs bytes.Buffer
	var wait []func()
	pipe := func() (r, w *os.File, err error) {
		r, w, err = os.Pipe()
		if err == nil {
			wait = append(wait, func() { r.Close(); w.Close() })
		}
		return r, w, err
	}
	defer func() {
		for _, f := range wait {
			f()
		}
	}()
	inR, inW, err1 := pipe()
	outR, outW, err2 := pipe()
	errR, errW, err3 := pipe()
	if err := errors.Join(err1, err2, err3); err != nil {
		return "", err
	}
	c.Stdin, c.Out, c.Err = inR, outW, errW
	proc, err := h.Start(c)
	if err != nil {
		return "", err
	}
	inR.Close()
	outW.Close()
	errW.Close()
	read := make(chan struct{}, 2)
	copying := func(to io.Writer, from io.Reader) {
		_, _ = io.Copy(to, from)
		read <- struct{}{}
	}
	go copying(&out, outR)
	go copying(&errs, errR)
	go func() {
		_, _ = io.Copy(inW, strings.NewReader(stdin))
		inW.Close()
	}()
	err = proc.Wait(ctx)
	if ctx.Err() != nil {
		_ = proc.Kill(unix.SIGKILL)
	}
	for range 2 {
		select {
		case <-read:
		case <-ctx.Done(): // a child of it may hold the pipe
			return "", fmt.Errorf("%s: %s: %w", h.Name, strings.Join(c.Args, " "), context.Cause(ctx))
		}
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w\n%s", h.Name, strings.Join(c.Args, " "), err, errs.String())
	}
	return out.String(), nil
}
