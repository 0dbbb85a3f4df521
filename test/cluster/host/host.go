// Package host makes machines out of processes: a host is the first process of
// its own pid, mount, uts, ipc and network namespaces, with a control group
// subtree, /run, /tmp and /var/lib of its own, and one Ethernet port. What it
// keeps in /var/lib survives a power cut, as on a disk.
package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/podsnap/podsnap/test/cluster/hub"
	"golang.org/x/sys/unix"
)

// Config says what a host is. Everything but Programs has to be set.
type Config struct {
	Name   string
	Addr   netip.Prefix // of eth0
	MAC    net.HardwareAddr
	Dir    string // of this host alone; the disk lies below it
	Groups *Groups
	Hub    *hub.Hub // Name is its member
	// Programs are put into the host's /run/bin, which is first in PATH: name
	// in there, file out here.
	Programs map[string]string
}

// Host is a machine that can be switched on and off. Its methods may be called
// by several at once, but for Boot and PowerOff.
type Host struct {
	Config

	mu    sync.Mutex
	power *power   // nil: it is off
	idle  []func() // called at each PowerOff
}

// power is a host from Boot to PowerOff.
type power struct {
	cmd   *exec.Cmd
	conn  *conn
	netns int
	ended chan struct{} // closed when the first process is no more

	mu      sync.Mutex
	next    int
	waiting map[int]chan message // for the answer to a start
	running map[int]*Process
	gone    error // nil: messages go through
}

// ErrOff is what everything answers that needs a host that is on.
var ErrOff = errors.New("the host is off")

// New prepares a host; it is off.
func New(c Config) (*Host, error) {
	if err := os.MkdirAll(filepath.Join(c.Dir, "disk"), 0o755); err != nil {
		return nil, err
	}
	return &Host{Config: c}, nil
}

// Disk is where the host's /var/lib lies on this machine.
func (h *Host) Disk(elem ...string) string {
	return filepath.Join(append([]string{h.Dir, "disk"}, elem...)...)
}

// IP is the host's address.
func (h *Host) IP() string { return h.Addr.Addr().String() }

// on is the running host.
func (h *Host) on() (*power, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.power == nil {
		return nil, fmt.Errorf("%s: %w", h.Name, ErrOff)
	}
	return h.power, nil
}

// On tells whether the host is on.
func (h *Host) On() bool {
	_, err := h.on()
	return err == nil
}

// Boot switches the host on and returns when processes can be started on it.
func (h *Host) Boot(ctx context.Context) error {
	if h.On() {
		return fmt.Errorf("%s is on already", h.Name)
	}
	dirs, err := h.Groups.make(h.Name)
	if err != nil {
		return err
	}
	ours, theirs, err := newConn()
	if err != nil {
		return err
	}
	spec := spec{
		Name: h.Name, Addr: h.Addr, MAC: h.MAC.String(), Disk: h.Disk(), Programs: h.Programs,
		Groups: dirs, Unified: h.Groups.Tree.V2,
	}
	p := &power{conn: ours, netns: -1, ended: make(chan struct{}), waiting: map[int]chan message{}, running: map[int]*Process{}}
	p.cmd, err = firstProcess(spec, theirs)
	if err == nil {
		err = startUnderLock(p.cmd, p.ended)
	}
	theirs.Close()
	if err != nil {
		ours.Close()
		return fmt.Errorf("start %s: %w", h.Name, err)
	}
	tap, err := p.ready(ctx)
	if err == nil {
		p.netns, err = unix.Open(fmt.Sprintf("/proc/%d/ns/net", p.cmd.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("boot %s: %w", h.Name, err), h.end(p))
		if tap >= 0 {
			_ = unix.Close(tap)
		}
		return err
	}
	go p.read()
	h.Hub.Still(h.Name, false)
	h.Hub.Plug(h.Name, hub.TAP(tap))
	h.mu.Lock()
	h.power = p
	h.mu.Unlock()
	return nil
}

// ready waits for the first word of a host, with its end of the cable.
func (p *power) ready(ctx context.Context) (tap int, err error) {
	stop := context.AfterFunc(ctx, func() { p.conn.Close() })
	defer stop()
	m, fds, err := p.conn.receive()
	switch {
	case err != nil && ctx.Err() != nil:
		return -1, context.Cause(ctx)
	case err != nil:
		return -1, fmt.Errorf("its first process said nothing: %w", err)
	case m.Error != "":
		return -1, errors.New(m.Error)
	case len(fds) != 1:
		return -1, fmt.Errorf("its first process sent %d descriptors", len(fds))
	}
	return fds[0], nil
}

// startUnderLock starts a process that dies with this one. ended is closed when
// it has been waited for.
func startUnderLock(cmd *exec.Cmd, ended chan struct{}) error {
	started := make(chan error, 1)
	go func() {
		// The kernel sends the death signal when the starting thread ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(ended)
		}
	}()
	return <-started
}

// PowerOff is a power cut: everything on the host ends at once, nothing is told
// to anybody. What was written to its disk is there at the next Boot, as a power
// cut of processes does not reach the page cache. A host that is off stays off.
func (h *Host) PowerOff() error {
	h.mu.Lock()
	p, idle := h.power, h.idle
	h.power = nil
	h.mu.Unlock()
	if p == nil {
		return nil
	}
	h.Hub.Unplug(h.Name)
	err := h.end(p)
	for _, f := range idle {
		f()
	}
	return err
}

// end kills all that there is of a host, and waits until the kernel has done it.
func (h *Host) end(p *power) error {
	_ = p.cmd.Process.Kill()
	p.conn.Close()
	// A process that is frozen dies when it is thawed. Some may have been
	// frozen by the host itself.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	var err error
	for over := false; !over; {
		h.Groups.killAll(h.Name)
		select {
		case <-p.ended:
			over = true
		case <-tick.C:
		case <-limit.C:
			over, err = true, fmt.Errorf("%s: its processes do not end", h.Name)
		}
	}
	if p.netns >= 0 {
		_ = unix.Close(p.netns)
	}
	return errors.Join(err, h.Groups.remove(h.Name))
}

// Freeze stops all processes of a host where they are, and lets nothing in or
// out: to the others it is silent, as a virtual machine that is paused.
func (h *Host) Freeze(ctx context.Context) error { return h.still(ctx, true) }

// Thaw lets a host that was frozen go on.
func (h *Host) Thaw(ctx context.Context) error { return h.still(ctx, false) }

func (h *Host) still(ctx context.Context, frozen bool) error {
	if _, err := h.on(); err != nil {
		return err
	}
	if frozen {
		h.Hub.Still(h.Name, true)
	}
	if err := h.Groups.freeze(ctx, h.Name, frozen); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	if !frozen {
		h.Hub.Still(h.Name, false)
	}
	return nil
}

// Pid is the host's first process, as this machine sees it; 0 when it is off.
func (h *Host) Pid() int {
	p, err := h.on()
	if err != nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// firstProcess prepares this program as a host's.
func firstProcess(s spec, conn *os.File) (*exec.Cmd, error) {
	arg, err := s.encode()
	if err != nil {
		return nil, err
	}
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{initName, arg}, Env: []string{"GOMAXPROCS=1"}, Dir: "/",
		Stderr: os.Stderr, ExtraFiles: []*os.File{conn},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
			Pdeathsig:  syscall.SIGKILL, Setsid: true,
		},
	}, nil
}
