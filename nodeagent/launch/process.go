package launch

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// process is one that is watched. Server.mu guards it.
type process struct {
	Process
	pidfd *os.File // nil once it has ended
}

// lostCode stands for an exit whose code nobody can tell, as in Kubernetes.
const lostCode = 137

// watch registers a process and waits for its end in the background. It takes
// the descriptor.
func (s *Server) watch(p *process, pidfd int) error {
	if err := unix.SetNonblock(pidfd, true); err != nil { // for the poller
		return err
	}
	f := os.NewFile(uintptr(pidfd), "pidfd")
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	p.pidfd = f
	s.mu.Lock()
	s.procs[p.ID] = p
	s.mu.Unlock()
	s.work.Go(func() {
		code, ok := 0, false
		err := conn.Read(func(fd uintptr) bool {
			code, ok = ended(int(fd))
			return ok
		})
		if err != nil {
			return // abandoned: the launcher leaves
		}
		s.ended(p, code)
	})
	return nil
}

// ended asks whether a process has ended, and how.
func ended(pidfd int) (code int, ok bool) {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PIDFD, pidfd, &info, unix.WEXITED|unix.WNOHANG, nil)
	switch {
	case err == nil && info.Signo != 0:
		return exitCode(&info), true
	case errors.Is(err, unix.ECHILD): // adopted: somebody else is told
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(fds, 0); n <= 0 {
			return 0, false
		}
		return strangerCode(pidfd), true
	}
	return 0, false
}

// exitCode reads a siginfo of a child: its code, or 128 and its signal.
func exitCode(i *unix.Siginfo) int {
	const exited = 1 // CLD_EXITED
	// Behind three ints and padding: pid, uid, status.
	status := *(*int32)(unsafe.Add(unsafe.Pointer(i), 24))
	if i.Code == exited {
		return int(status)
	}
	return 128 + int(status)
}

// strangerCode asks for the exit code of a process that is not a child: newer
// kernels (6.15) keep it for who has a pidfd.
func strangerCode(pidfd int) int {
	const (
		getInfo  = 0xc040ff0b // PIDFD_GET_INFO: _IOWR(0xff, 11, 64 bytes)
		infoExit = 1 << 3
		codeAt   = 60
	)
	// It is there once the process has been waited for: that hangs up.
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(pidfd)}}, 100)
	var info [64]byte
	binary.LittleEndian.PutUint64(info[:], infoExit)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), getInfo, uintptr(unsafe.Pointer(&info)))
	if errno != 0 || binary.LittleEndian.Uint64(info[:])&infoExit == 0 {
		return lostCode
	}
	status := syscall.WaitStatus(binary.LittleEndian.Uint32(info[codeAt:]))
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// ended notes an exit, has it on disk and tells whoever is connected.
func (s *Server) ended(p *process, code int) {
	s.mu.Lock()
	p.Ended, p.Code, p.At = true, code, time.Now()
	p.pidfd.Close()
	p.pidfd = nil
	if p.exec {
		delete(s.procs, p.ID)
	} else if err := s.save(p.Process); err != nil {
		s.log.Warn("keep an exit", slog.String("id", p.ID), slog.Any("error", err))
	}
	x := p.Process
	var to []*peer
	for c := range s.conns {
		to = append(to, c)
	}
	s.mu.Unlock()
	for _, c := range to {
		c.send(Reply{Exit: &x})
	}
}

func (p *process) signal(sig syscall.Signal) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	return sent
}

// abandon ends the watch without an end of the process.
func (p *process) abandon() {
	if p.pidfd != nil {
		p.pidfd.Close()
	}
}

// identity tells a process from a later one of the same number: by the number
// of its pidfd's inode, which newer kernels (6.9) never use twice, or else by
// when it was started.
func identity(pidfd, pid int) string {
	const pidfs = 0x50494446
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(pidfd, &fs) == nil && fs.Type == pidfs && unix.Fstat(pidfd, &st) == nil {
		return fmt.Sprint("i", st.Ino)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	if f := strings.Fields(rest); len(f) > 19 {
		return "s" + f[19]
	}
	return ""
}

func (s *Server) record(id string) string { return filepath.Join(s.dir, id+".json") }

// save writes a record whole or not at all.
func (s *Server) save(p Process) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	path := s.record(p.ID)
	if !p.Ended { // new: nobody reads half of it but after a crash, and then it is refused
		return os.WriteFile(path, b, 0o600)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// adopt takes over the processes of a former launcher.
func (s *Server) adopt() error {
	files, err := filepath.Glob(filepath.Join(s.dir, "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		var p Process
		b, err := os.ReadFile(f)
		if err == nil {
			err = json.Unmarshal(b, &p)
		}
		if err != nil || s.record(p.ID) != f {
			s.log.Warn("a record is not understood", slog.String("file", f), slog.Any("error", err))
			_ = os.Remove(f)
			continue
		}
		if err := s.adoptOne(p); err != nil {
			return fmt.Errorf("adopt process %s: %w", p.ID, err)
		}
	}
	return nil
}

func (s *Server) adoptOne(r Process) error {
	p := &process{Process: r}
	if !p.Ended {
		fd, err := unix.PidfdOpen(p.Pid, 0)
		if err == nil && identity(fd, p.Pid) == p.Identity {
			return s.watch(p, fd)
		}
		if err == nil {
			_ = unix.Close(fd)
		}
		p.Ended, p.Code, p.At = true, lostCode, time.Now()
	}
	s.mu.Lock()
	s.procs[p.ID] = p
	s.mu.Unlock()
	return s.save(p.Process)
}
