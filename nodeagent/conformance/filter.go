package conformance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The ways into the kernel, as a system call filter is told of them
// (AUDIT_ARCH_*). The x32 numbers come by the first with a bit set.
const (
	archX8664 = 0xc000003e
	archI386  = 0x40000003
	bitX32    = 0x40000000
)

// filter is a process's system call filters as the kernel runs them: all of
// them, the strictest answer counts.
type filter []*bpf.VM

// readFilter takes the filters of a running process from the kernel, in the
// order in which they were added last to first. The process stands still
// meanwhile. It needs CAP_SYS_ADMIN and a kernel with checkpoint/restore.
func readFilter(pid int) (filter, error) {
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return nil, fmt.Errorf("trace %d: %w", pid, err)
	}
	defer func() { _ = unix.PtraceDetach(pid) }()
	if err := unix.PtraceInterrupt(pid); err != nil {
		return nil, fmt.Errorf("stop %d: %w", pid, err)
	}
	var w unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &w, unix.WALL, nil); err != unix.EINTR {
			if err != nil {
				return nil, fmt.Errorf("wait for %d: %w", pid, err)
			}
			break
		}
	}
	var all filter
	for i := 0; ; i++ {
		raw, err := filterAt(pid, i)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) && i == 0 { // no more; none at all
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read filter %d of %d: %w", i, pid, err)
		}
		insns, ok := bpf.Disassemble(raw)
		if !ok {
			return nil, fmt.Errorf("filter %d of %d holds an instruction that is not understood", i, pid)
		}
		vm, err := bpf.NewVM(insns)
		if err != nil {
			return nil, fmt.Errorf("filter %d of %d: %w", i, pid, err)
		}
		all = append(all, vm)
	}
}

func filterAt(pid, i int) ([]bpf.RawInstruction, error) {
	const getFilter = 0x420c // PTRACE_SECCOMP_GET_FILTER
	n, _, errno := unix.Syscall6(unix.SYS_PTRACE, getFilter, uintptr(pid), uintptr(i), 0, 0, 0)
	if errno != 0 {
		return nil, errno
	}
	code := make([]unix.SockFilter, n)
	_, _, errno = unix.Syscall6(unix.SYS_PTRACE, getFilter, uintptr(pid), uintptr(i), uintptr(unsafe.Pointer(&code[0])), 0, 0)
	if errno != 0 {
		return nil, errno
	}
	raw := make([]bpf.RawInstruction, n)
	for i, c := range code {
		raw[i] = bpf.RawInstruction{Op: c.Code, Jt: c.Jt, Jf: c.Jf, K: c.K}
	}
	return raw, nil
}

// decide is what happens to a system call: "allow", an error's name, or
// another action. Words of the call are put into the machine in its own byte
// order: a filter loads only whole words.
func (f filter) decide(arch, nr uint32, args ...uint64) string {
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[0:], nr)
	binary.BigEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[20+8*i:], uint32(a>>32))
	}
	verdict := uint32(unix.SECCOMP_RET_ALLOW)
	for _, vm := range f {
		v, err := vm.Run(data)
		if err != nil {
			return "not understood: " + err.Error()
		}
		if u := uint32(v); int32(u&unix.SECCOMP_RET_ACTION_FULL) < int32(verdict&unix.SECCOMP_RET_ACTION_FULL) {
			verdict = u
		}
	}
	switch action := verdict & unix.SECCOMP_RET_ACTION_FULL; action {
	case unix.SECCOMP_RET_ALLOW:
		return "allow"
	case unix.SECCOMP_RET_ERRNO:
		return unix.ErrnoName(unix.Errno(verdict & unix.SECCOMP_RET_DATA))
	default:
		return fmt.Sprintf("action %#x", verdict)
	}
}

// facts are the decisions: for every number without arguments, in ranges, and
// for those whose arguments count.
func (f filter) facts() Facts {
	out := Facts{"filters": fmt.Sprint(len(f))}
	for _, way := range []struct {
		name string
		arch uint32
		base uint32
	}{{"x86_64", archX8664, 0}, {"x32", archX8664, bitX32}, {"i386", archI386, 0}, {"arm", 0x40000028, 0}, {"aarch64", 0xc00000b7, 0}} {
		for nr := range uint32(600) {
			out[fmt.Sprintf("%s.%03d", way.name, nr)] = f.decide(way.arch, way.base|nr)
		}
	}
	for bit := range 64 {
		out[fmt.Sprintf("clone.%d", bit)] = f.decide(archX8664, unix.SYS_CLONE, 1<<bit)
		out[fmt.Sprintf("personality.%d", bit)] = f.decide(archX8664, unix.SYS_PERSONALITY, 1<<bit)
		out[fmt.Sprintf("clone.i386.%d", bit)] = f.decide(archI386, 120, 1<<bit)
	}
	for n := range uint64(64) {
		out[fmt.Sprintf("socket.%d", n)] = f.decide(archX8664, unix.SYS_SOCKET, n)
		out[fmt.Sprintf("socket.i386.%d", n)] = f.decide(archI386, 359, n)
		out[fmt.Sprintf("socketcall.%d", n)] = f.decide(archI386, 102, n)
		out[fmt.Sprintf("socket high.%d", n)] = f.decide(archX8664, unix.SYS_SOCKET, n|1<<32)
	}
	out["ioctl.TIOCSTI"] = f.decide(archX8664, unix.SYS_IOCTL, 0, unix.TIOCSTI)
	out["x86_64.-1"] = f.decide(archX8664, 0xffffffff)
	return out
}

// ranges tells the decisions of one way in as text: "0-55 allow", one a line.
func ranges(decisions Facts) string {
	var b strings.Builder
	var keys []string
	for k := range decisions {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for i := 0; i < len(keys); {
		j := i
		for j+1 < len(keys) && decisions[keys[j+1]] == decisions[keys[i]] {
			j++
		}
		if i == j {
			fmt.Fprintf(&b, "%s %s\n", keys[i], decisions[keys[i]])
		} else {
			fmt.Fprintf(&b, "%s-%s %s\n", keys[i], keys[j], decisions[keys[i]])
		}
		i = j + 1
	}
	return b.String()
}
