package program

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// result is what the child leaves behind, in front of the calls.
type result struct {
	current uint64 // address of the call it is at
	errno   uint64
	failed  uint64
	_       [5]uint64
}

const resultSize = int(unsafe.Sizeof(result{}))

// cloneArgs is the kernel's struct clone_args, to its third version.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal uint64
	stack, stackSize, tls, setTID, setTIDSize     uint64
	cgroup                                        uint64
}

// Child is a process that a program has become.
type Child struct {
	Pid   int
	Pidfd int // open, close-on-exec
}

// Options say how a child is born.
type Options struct {
	Flags  uint64   // of clone3: new namespaces
	Inputs []uint64 // the program's inputs
	Cgroup int      // open directory of a version 2 cgroup to be born in; 0 is none
	// Fork has the child get a copy of this process's memory instead of
	// sharing it: for programs that enter a container that runs already, whose
	// processes could look into it.
	Fork bool
	// Forks is the index of the call that forks, for a program whose second
	// process is the one that counts; 0 is none.
	Forks int
}

// Run runs a program in a child and returns when the child has become another
// program, or has failed: then the error is a *Fault, or ErrKilled. The calling
// thread is blocked meanwhile, the others are not. The child belongs to the
// caller, who has to wait for it; on an error there is none.
func Run(image []byte, o Options) (Child, error) {
	m, ops, err := load(image, o)
	if err != nil {
		return Child{}, err
	}
	defer func() {
		clear(m) // it may hold secrets, as environment
		_ = unix.Munmap(m)
	}()
	res := (*result)(unsafe.Pointer(&m[0]))
	first := unsafe.Pointer(&m[resultSize])
	pidfd := int32(-1)
	a := &cloneArgs{
		flags: o.Flags | unix.CLONE_VFORK | unix.CLONE_CLEAR_SIGHAND | unix.CLONE_PIDFD,
		pidfd: uint64(uintptr(unsafe.Pointer(&pidfd))), exitSignal: uint64(unix.SIGCHLD),
	}
	if !o.Fork {
		a.flags |= unix.CLONE_VM
	}
	if o.Cgroup != 0 {
		a.flags |= unix.CLONE_INTO_CGROUP
		a.cgroup = uint64(o.Cgroup)
	}
	pid := spawn(a, first, unsafe.Pointer(res))
	runtime.KeepAlive(a)
	if pid < 0 {
		return Child{}, fmt.Errorf("make a process: %w", unix.Errno(-pid))
	}
	child := Child{Pid: int(pid), Pidfd: int(pidfd)}
	at := int((res.current - uint64(uintptr(first))) / opSize)
	if o.Forks != 0 && at >= o.Forks {
		reap(child.Pidfd) // it has left, or will at once
		_ = unix.Close(child.Pidfd)
		if at == o.Forks && res.failed != 0 {
			return Child{}, &Fault{Call: at, Errno: unix.Errno(res.errno)}
		}
		// The second process is ours as well (CLONE_PARENT) and not waited
		// for yet, so its number is still its own.
		child.Pid = int(word(m, resultSize+o.Forks*opSize+outWord*8, m))
		if child.Pidfd, err = unix.PidfdOpen(child.Pid, 0); err != nil {
			return Child{}, fmt.Errorf("open process %d: %w", child.Pid, err)
		}
	}
	switch {
	case res.failed != 0:
		err = &Fault{Call: at, Errno: unix.Errno(res.errno)}
	case at >= ops || binary.LittleEndian.Uint64(m[resultSize+at*opSize:]) != uint64(unix.SYS_EXECVE):
		err = ErrKilled
	default:
		return child, nil
	}
	reap(child.Pidfd)
	_ = unix.Close(child.Pidfd)
	return Child{}, err
}

// word reads through the address that lies at an offset of the mapping.
func word(m []byte, at int, within []byte) uint64 {
	to := binary.LittleEndian.Uint64(m[at:]) - uint64(uintptr(unsafe.Pointer(&within[0])))
	return binary.LittleEndian.Uint64(within[to:])
}

func reap(pidfd int) {
	for {
		err := unix.Waitid(unix.P_PIDFD, pidfd, nil, unix.WEXITED, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

var errImage = errors.New("not a program, or one of another version")

// load copies an image to where it can run. For a child that has a copy of all
// other memory it is shared all the same, so that the result is seen.
func load(image []byte, o Options) (m []byte, ops int, err error) {
	if len(image) < headerSize || len(image) > maxSize {
		return nil, 0, errImage
	}
	u32 := func(at int) int { return int(binary.LittleEndian.Uint32(image[at:])) }
	ops, body, relocs, ins := u32(4), u32(8), u32(12), u32(16)
	if u32(0) != magic || ops == 0 || ops > maxOps || body < ops*opSize || body > len(image) || relocs > len(image) || ins > len(image) ||
		headerSize+body+4*relocs+8*ins != len(image) {
		return nil, 0, errImage
	}
	flags := unix.MAP_ANONYMOUS | unix.MAP_PRIVATE | unix.MAP_POPULATE
	if o.Fork {
		flags ^= unix.MAP_PRIVATE | unix.MAP_SHARED
	}
	if m, err = unix.Mmap(-1, 0, resultSize+body+opSize, unix.PROT_READ|unix.PROT_WRITE, flags); err != nil {
		return nil, 0, fmt.Errorf("map a program: %w", err)
	}
	copy(m[resultSize:], image[headerSize:headerSize+body])
	base := uint64(uintptr(unsafe.Pointer(&m[resultSize])))
	for i := range relocs {
		at := u32(headerSize + body + 4*i)
		if at < 0 || at+8 > body {
			err = errImage
			break
		}
		p := m[resultSize+at:]
		v := binary.LittleEndian.Uint64(p)
		if v >= uint64(body) {
			err = errImage
			break
		}
		binary.LittleEndian.PutUint64(p, v+base)
	}
	for i := range ins {
		at, index := u32(headerSize+body+4*relocs+8*i), u32(headerSize+body+4*relocs+8*i+4)
		if at+8 > body || index >= len(o.Inputs) {
			err = errImage
			break
		}
		binary.LittleEndian.PutUint64(m[resultSize+at:], o.Inputs[index])
	}
	if err != nil {
		_ = unix.Munmap(m)
		return nil, 0, err
	}
	return m, ops, nil
}

// spawn makes the child. The Go scheduler is told as of a system call that
// blocks, which it is.
//
//go:nosplit
func spawn(a *cloneArgs, first, res unsafe.Pointer) int64 {
	entersyscall()
	pid := enter(unsafe.Pointer(a), unsafe.Sizeof(cloneArgs{}), first, res)
	exitsyscall()
	return pid
}

// enter is clone3; the child interprets the calls at first and never returns.
//
//go:noescape
func enter(clone unsafe.Pointer, size uintptr, first, res unsafe.Pointer) int64

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()
