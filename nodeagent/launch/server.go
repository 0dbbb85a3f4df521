package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/program"
)

// Server is the launcher.
type Server struct {
	dir string // of records
	log *slog.Logger

	slots chan struct{} // bounds the programs that run at once

	mu    sync.Mutex
	procs map[string]*process
	held  map[string]int
	shelf *shelf
	conns map[*peer]struct{}
	leave context.CancelCauseFunc
	work  sync.WaitGroup
}

var errLeave = errors.New("told to leave")

const atOnce = 64

// NewServer makes a launcher that keeps its records in dir, which only root may
// see and beside which there is a folder "shelf" then, and adopts the processes of a former one.
func NewServer(dir string, log *slog.Logger) (*Server, error) {
	s := &Server{
		dir: dir, log: log, slots: make(chan struct{}, atOnce),
		procs: map[string]*process{}, held: map[string]int{}, shelf: newShelf(filepath.Join(filepath.Dir(dir), "shelf")), conns: map[*peer]struct{}{},
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// A container that is being entered could look into this process's memory
	// and files otherwise.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("hide from containers: %w", err)
	}
	return s, s.adopt()
}

// Serve answers on the listener until ctx is done or it is told to leave. The
// processes go on.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.mu.Lock()
	s.leave = cancel
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		p := &peer{conn: conn}
		s.mu.Lock()
		s.conns[p] = struct{}{}
		s.mu.Unlock()
		s.work.Go(func() { s.serve(p) })
	}
	s.mu.Lock()
	for p := range s.conns {
		p.conn.Close()
	}
	for _, p := range s.procs {
		p.abandon()
	}
	for name, fd := range s.held {
		_ = unix.Close(fd)
		delete(s.held, name)
	}
	s.mu.Unlock()
	s.work.Wait()
	s.shelf.close()
	return nil
}

// peer is one connection.
type peer struct {
	conn net.Conn
	mu   sync.Mutex
}

func (p *peer) send(r Reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := writeFrame(p.conn, r, nil); err != nil {
		p.conn.Close()
	}
}

func (s *Server) serve(p *peer) {
	defer func() {
		p.conn.Close()
		s.mu.Lock()
		delete(s.conns, p)
		s.mu.Unlock()
	}()
	var requests sync.WaitGroup
	defer requests.Wait()
	r := bufio.NewReaderSize(p.conn, 64<<10)
	for {
		var q Request
		image, err := readFrame(r, &q)
		if err != nil {
			return
		}
		answer := func() {
			a := s.do(q, image)
			a.Seq = q.Seq
			p.send(a)
			if q.Op == Leave {
				s.leave(errLeave)
			}
		}
		if q.Op != Start && q.Op != Exec && q.Op != Shelve && q.Op != Unshelve {
			answer() // in their order
			continue
		}
		s.slots <- struct{}{}
		requests.Go(func() {
			defer func() { <-s.slots }()
			answer()
		})
	}
}

func (s *Server) do(q Request, image []byte) Reply {
	var err error
	switch q.Op {
	case Hello:
		return Reply{Hello: s.welcome()}
	case Hold:
		err = s.hold(q.Name, q.Path)
	case Drop:
		s.drop(q.Name)
	case Shelve:
		if err = s.shelf.put(q.Name, q.Base, q.Options); err == nil {
			return Reply{Pid: os.Getpid()}
		}
	case Unshelve:
		err = s.shelf.drop(q.Name)
	case Start:
		return s.start(q, image)
	case Exec:
		return s.exec(q, image)
	case Signal:
		err = s.signal(q.ID, q.Sig)
	case Forget:
		s.forget(q.ID)
	case Leave:
	default:
		err = fmt.Errorf("request %q is not known", q.Op)
	}
	return failure(err)
}

func failure(err error) Reply {
	var f *program.Fault
	switch {
	case err == nil:
		return Reply{}
	case errors.As(err, &f):
		return Reply{Error: err.Error(), Fault: &Fault{f.Call, int(f.Errno)}}
	}
	return Reply{Error: err.Error(), None: errors.Is(err, ErrNone)}
}

func (s *Server) welcome() *Welcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &Welcome{Version: Version, Pid: os.Getpid(), Processes: []Process{}, Shelved: s.shelf.all(), Held: maps.Clone(s.held)}
	for _, p := range s.procs {
		if !p.exec {
			w.Processes = append(w.Processes, p.Process)
		}
	}
	slices.SortFunc(w.Processes, func(a, b Process) int { return a.Pid - b.Pid })
	return w
}

func (s *Server) hold(name, path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.held[name]; ok {
		_ = unix.Close(old)
	}
	s.held[name] = fd
	return nil
}

func (s *Server) drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fd, ok := s.held[name]; ok {
		_ = unix.Close(fd)
		delete(s.held, name)
	}
}

// start runs a container's first process.
func (s *Server) start(q Request, image []byte) Reply {
	s.mu.Lock()
	fd, ok := s.held[q.Name]
	_, twice := s.procs[q.ID]
	if ok {
		// Ours for as long as the child is made, whatever becomes of the held one.
		if fd, _ = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); fd < 0 {
			ok = false
		}
	}
	s.mu.Unlock()
	if twice || filepath.Base(q.ID) != q.ID {
		return failure(fmt.Errorf("process %q cannot be started: it is there, or that is no name", q.ID))
	}
	if !ok {
		return failure(fmt.Errorf("nothing is held as %q", q.Name))
	}
	defer unix.Close(fd)
	inputs := []uint64{uint64(fd)}
	if q.Root != "" {
		root, err := s.shelf.copy(q.Root)
		if err != nil {
			return failure(err)
		}
		defer unix.Close(root)
		inputs = append(inputs, uint64(root))
	}
	c, err := run(image, q, program.Options{Flags: q.Flags, Inputs: inputs})
	if err != nil {
		return failure(err)
	}
	p := &process{Process: Process{ID: q.ID, Pid: c.Pid, Identity: identity(c.Pidfd, c.Pid)}}
	if err := s.save(p.Process); err != nil {
		s.log.Warn("keep the record of a process", slog.String("id", q.ID), slog.Any("error", err))
	}
	if err := s.watch(p, c.Pidfd); err != nil {
		_ = unix.Kill(c.Pid, unix.SIGKILL)
		return failure(err)
	}
	return Reply{Pid: c.Pid}
}

// run runs a program in a child that is born in the group that was asked for.
func run(image []byte, q Request, o program.Options) (program.Child, error) {
	if q.Cgroup != "" {
		dir, err := unix.Open(q.Cgroup, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return program.Child{}, &os.PathError{Op: "open", Path: q.Cgroup, Err: err}
		}
		defer unix.Close(dir)
		o.Cgroup = dir
	}
	return program.Run(image, o)
}

// exec runs another process in the container of one.
func (s *Server) exec(q Request, image []byte) Reply {
	s.mu.Lock()
	of := s.procs[q.Of]
	pid := 0
	if of != nil && !of.Ended {
		pid = of.Pid
	}
	s.mu.Unlock()
	if pid == 0 {
		return failure(fmt.Errorf("%w: %s", ErrNone, q.Of))
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return failure(fmt.Errorf("%w: %s: %w", ErrNone, q.Of, err))
	}
	defer unix.Close(fd)
	if identity(fd, pid) != of.Identity {
		return failure(fmt.Errorf("%w: %s", ErrNone, q.Of))
	}
	c, err := run(image, q, program.Options{Inputs: []uint64{uint64(fd)}, Fork: true, Forks: q.Second})
	if err != nil {
		return failure(err)
	}
	p := &process{Process: Process{ID: q.ID, Pid: c.Pid, exec: true}}
	if err := s.watch(p, c.Pidfd); err != nil {
		_ = unix.Kill(c.Pid, unix.SIGKILL)
		return failure(err)
	}
	return Reply{Pid: c.Pid}
}

// signal sends a signal. A process that has ended is no error.
func (s *Server) signal(id string, sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.procs[id]
	if p == nil {
		return fmt.Errorf("%w: %s", ErrNone, id)
	}
	if p.Ended {
		return nil
	}
	err := p.signal(sig)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (s *Server) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.procs[id]; p != nil && p.Ended {
		delete(s.procs, id)
		_ = os.Remove(s.record(id))
	}
}
