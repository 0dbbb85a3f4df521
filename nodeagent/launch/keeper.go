package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/podsnap/podsnap/internal/pause"
	"github.com/podsnap/podsnap/internal/sealed"
	"github.com/podsnap/podsnap/nodeagent/program"
)

// Config says how a keeper finds or makes its launcher. All but Log are required.
type Config struct {
	Dir string // of the socket, the records and the launcher's log: one a node
	// Program reads nodeagent/launcher, a static binary, when it is started.
	Program func() ([]byte, error)

	// Connected is called with what a launcher has, before any request is sent
	// to it but those that Connected sends by the Conn.
	Connected func(w Welcome, c *Conn)
	// Exited is called for each end of a process, one after the other.
	Exited func(p Process)
	Log    *slog.Logger
}

// Keeper is the agent's side: it has a connection to a launcher, makes a new
// launcher when there is none, and sends requests. Its methods are safe for
// concurrent use.
type Keeper struct {
	c Config

	mu   sync.Mutex
	conn *Conn
	up   chan struct{} // closed while conn is set
	over bool
	quit bool
}

// ErrClosed is a request to a keeper that has ended.
var ErrClosed = errors.New("the launcher's keeper has ended")

// NewKeeper makes a keeper; Run does its work.
func NewKeeper(c Config) *Keeper {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{c: c, up: make(chan struct{})}
}

// Socket is where the launcher of a directory listens.
func Socket(dir string) string { return filepath.Join(dir, "launcher.sock") }

// Run keeps a connection until ctx is done; the launcher goes on then. It
// returns an error only when no launcher can be started at all.
func (k *Keeper) Run(ctx context.Context) error {
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.over = true
		if k.conn == nil {
			close(k.up)
		}
	}()
	for wait := 5 * time.Millisecond; ; {
		c, w, err := k.connect(ctx)
		if ctx.Err() != nil {
			if c != nil {
				c.close(ErrClosed)
			}
			return nil
		}
		if err != nil {
			k.c.Log.Warn("no launcher", slog.Any("error", err))
			if !pause.For(ctx, wait) {
				return nil
			}
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		k.c.Connected(w, c)
		k.mu.Lock()
		k.conn = c
		close(k.up)
		k.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-c.done:
			k.c.Log.Warn("the launcher has ended", slog.Any("error", c.err))
		}
		c.close(ErrClosed)
		<-c.read
		k.mu.Lock()
		k.conn, k.up = nil, make(chan struct{})
		k.mu.Unlock()
		close(c.gone)
		if ctx.Err() != nil || k.quitting() {
			return nil
		}
	}
}

func (k *Keeper) quitting() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.quit
}

// Quit has the launcher leave, for good; Run returns after that.
func (k *Keeper) Quit(ctx context.Context) error {
	c, err := k.wait(ctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.quit = true
	k.mu.Unlock()
	if _, err := c.Do(ctx, Request{Op: Leave}, nil); err != nil && !errors.Is(err, ErrLost) {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// connect finds the launcher, or starts one, and asks what it has. One of
// another version is replaced.
func (k *Keeper) connect(ctx context.Context) (*Conn, Welcome, error) {
	started := false
	limit := time.Now().Add(5 * time.Second)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		raw, err := (&net.Dialer{}).DialContext(ctx, "unix", Socket(k.c.Dir))
		if err == nil {
			c := newConn(raw, k.c.Exited)
			r, err := c.Do(ctx, Request{Op: Hello}, nil)
			if err == nil && r.Hello == nil {
				err = errors.New("the launcher does not say what it is")
			}
			if err != nil {
				c.close(err)
				<-c.read
				return nil, Welcome{}, err
			}
			if r.Hello.Version == Version {
				return c, *r.Hello, nil
			}
			_, err = c.Do(ctx, Request{Op: Leave}, nil)
			c.close(err)
			<-c.read
			started = false
			continue
		}
		if ctx.Err() != nil {
			return nil, Welcome{}, context.Cause(ctx)
		}
		if !started {
			if err := k.spawn(); err != nil {
				return nil, Welcome{}, fmt.Errorf("start the launcher: %w", err)
			}
			started = true
		}
		if time.Now().After(limit) {
			return nil, Welcome{}, fmt.Errorf("the launcher does not answer: %w", err)
		}
		if !pause.For(ctx, wait) {
			return nil, Welcome{}, context.Cause(ctx)
		}
	}
}

// spawn starts a launcher in a session of its own, from sealed memory: there is
// no file of it that a container could find a way to write to.
func (k *Keeper) spawn() error {
	if err := os.MkdirAll(k.c.Dir, 0o700); err != nil {
		return err
	}
	program, err := k.c.Program()
	if err != nil {
		return err
	}
	f, err := sealed.Program("podsnap-launcher", program)
	if err != nil {
		return err
	}
	defer f.Close()
	log, err := os.OpenFile(filepath.Join(k.c.Dir, "launcher.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(sealed.Path(f), k.c.Dir) //nolint:noctx // it outlives us
	cmd.Args[0] = "podsnap-launcher"
	cmd.Env = []string{"GOGC=200"}
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // ends with the launcher, or with us
	return nil
}

// Do sends a request and waits for the answer, and before that for a launcher.
// A program's fault is a *program.Fault, a killed child program.ErrKilled, a
// process that is not there ErrNone. A Start, Exec or Shelve that was sent whole and
// whose launcher goes away meanwhile is ErrLost, everything else is asked of the next
// one.
func (k *Keeper) Do(ctx context.Context, q Request, image []byte) (Reply, error) {
	for {
		c, err := k.wait(ctx)
		if err != nil {
			return Reply{}, err
		}
		r, err := c.Do(ctx, q, image)
		if errors.Is(err, ErrLost) && (errors.Is(err, errUnsent) || q.Op != Start && q.Op != Exec && q.Op != Shelve) {
			select {
			case <-c.read: // the next one, then
				continue
			case <-ctx.Done():
			}
		}
		return r, err
	}
}

func (k *Keeper) wait(ctx context.Context) (*Conn, error) {
	for {
		k.mu.Lock()
		c, up, over := k.conn, k.up, k.over
		k.mu.Unlock()
		switch {
		case over:
			return nil, ErrClosed
		case c != nil && c.alive():
			return c, nil
		case c != nil: // about to be taken away
			select {
			case <-c.gone:
			case <-ctx.Done():
				return nil, fmt.Errorf("there is no launcher: %w", context.Cause(ctx))
			}
			continue
		}
		select {
		case <-up:
		case <-ctx.Done():
			return nil, fmt.Errorf("there is no launcher: %w", context.Cause(ctx))
		}
	}
}

// Conn is a connection to a launcher.
type Conn struct {
	raw  net.Conn
	done chan struct{} // closed when it is over
	read chan struct{} // closed when nothing is read any more
	gone chan struct{} // closed when its keeper has given it up

	mu      sync.Mutex
	seq     uint64
	waiting map[uint64]chan Reply
	err     error
	write   sync.Mutex
}

func newConn(raw net.Conn, exited func(Process)) *Conn {
	c := &Conn{raw: raw, done: make(chan struct{}), read: make(chan struct{}), gone: make(chan struct{}), waiting: map[uint64]chan Reply{}}
	go func() {
		defer close(c.read)
		c.close(c.receive(exited))
	}()
	return c
}

func (c *Conn) receive(exited func(Process)) error {
	r := bufio.NewReader(c.raw)
	for {
		var m Reply
		if _, err := readFrame(r, &m); err != nil {
			return err
		}
		if m.Seq == 0 {
			if m.Exit != nil {
				exited(*m.Exit)
			}
			continue
		}
		c.mu.Lock()
		to := c.waiting[m.Seq]
		delete(c.waiting, m.Seq)
		c.mu.Unlock()
		if to != nil {
			to <- m
		}
	}
}

func (c *Conn) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func (c *Conn) close(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		return
	}
	if err == nil {
		err = ErrClosed
	}
	c.err, c.waiting = err, nil
	close(c.done)
	c.raw.Close()
}

// ErrLost is a request that the launcher may have done or not: it went away.
var ErrLost = errors.New("the launcher has gone away")

// errUnsent is with ErrLost where the launcher cannot have read the request whole.
var errUnsent = errors.New("before the request was sent")

// Do sends a request over this connection; see Keeper.Do.
func (c *Conn) Do(ctx context.Context, q Request, image []byte) (Reply, error) {
	to := make(chan Reply, 1)
	c.mu.Lock()
	if c.waiting == nil {
		defer c.mu.Unlock()
		return Reply{}, fmt.Errorf("%w %w: %w", ErrLost, errUnsent, c.err)
	}
	c.seq++
	q.Seq = c.seq
	c.waiting[q.Seq] = to
	c.mu.Unlock()
	c.write.Lock()
	err := writeFrame(c.raw, q, image)
	c.write.Unlock()
	if err != nil {
		c.close(err)
		return Reply{}, fmt.Errorf("%w %w: %w", ErrLost, errUnsent, err)
	}
	select {
	case r := <-to:
		return r, r.err()
	case <-c.done:
		return Reply{}, fmt.Errorf("%w: %w", ErrLost, c.err)
	case <-ctx.Done():
		return Reply{}, context.Cause(ctx)
	}
}

func (r Reply) err() error {
	switch {
	case r.Fault != nil:
		return &program.Fault{Call: r.Fault.Call, Errno: syscall.Errno(r.Fault.Errno)}
	case r.Error == program.ErrKilled.Error():
		return program.ErrKilled
	case r.None:
		return ErrNone
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}
