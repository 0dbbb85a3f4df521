package host

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"
)

// family knows the processes that somebody waits for, so that the reaper of
// orphans (this is process 1 of its container) takes no one's exit status.
type family struct {
	mu   sync.Mutex
	ours map[int]bool
	kick chan os.Signal
}

// start starts a command that wait will be called for.
func (f *family) start(cmd *exec.Cmd) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	if f.ours == nil {
		f.ours = map[int]bool{}
	}
	f.ours[cmd.Process.Pid] = true
	return nil
}

// await returns when the command's process has ended, and leaves it unreaped:
// until wait its process id, and so that of its group, belongs to nobody else.
func (f *family) await(cmd *exec.Cmd) {
	for {
		if _, err := waitid(pPID, cmd.Process.Pid, syscall.WEXITED|syscall.WNOWAIT); err != syscall.EINTR {
			return
		}
	}
}

// wait kills what is left of the ended command's process group and reaps it.
func (f *family) wait(cmd *exec.Cmd) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	err := cmd.Wait()
	delete(f.ours, cmd.Process.Pid)
	if f.kick != nil {
		select {
		case f.kick <- syscall.SIGCHLD: // orphans may have stood behind it
		default:
		}
	}
	return err
}

// kill kills a command's process group, unless it has been reaped.
func (f *family) kill(cmd *exec.Cmd) { f.signal(-cmd.Process.Pid, syscall.SIGKILL) }

// signal sends a signal to a process that was started, or with a negative id to
// its group, unless it has been reaped: then the id may be another's.
func (f *family) signal(pid int, s syscall.Signal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ours[max(pid, -pid)] {
		_ = syscall.Kill(pid, s)
	}
}

// reap reaps orphans until ctx is done.
func (f *family) reap(ctx context.Context) {
	c := make(chan os.Signal, 1)
	f.mu.Lock()
	f.kick = c
	f.mu.Unlock()
	signal.Notify(c, syscall.SIGCHLD)
	defer signal.Stop(c)
	for {
		for f.reapOne() {
		}
		select {
		case <-c:
		case <-ctx.Done():
			return
		}
	}
}

// reapOne looks at an ended process, without taking its status, and reaps it if
// nobody waits for it.
func (f *family) reapOne() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	pid, err := waitid(pAll, 0, syscall.WEXITED|syscall.WNOHANG|syscall.WNOWAIT)
	if err != 0 || pid == 0 || f.ours[pid] {
		return false
	}
	_, werr := syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
	return werr == nil
}

const (
	pAll = 0
	pPID = 1
)

// waitid is the system call, which package syscall does not have.
func waitid(kind, id, options int) (pid int, _ syscall.Errno) {
	var info [128]byte // siginfo_t; si_pid stands behind four 32-bit words on 64-bit systems
	_, _, err := syscall.Syscall6(syscall.SYS_WAITID, uintptr(kind), uintptr(id), uintptr(unsafe.Pointer(&info)), uintptr(options), 0, 0)
	return int(*(*int32)(unsafe.Pointer(&info[16]))), err
}
