package confine

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/program"
)

var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// process limits the process, takes its rights and has it become the command.
func (c *compiler) process() {
	p := c.in.Spec.Process
	for _, r := range p.Rlimits {
		c.Call("limit "+r.Type, unix.SYS_PRLIMIT64, null, program.Int(rlimits[r.Type]), program.Words(program.Int(r.Soft), program.Int(r.Hard)), null)
	}
	c.Call("set umask", unix.SYS_UMASK, program.Int(0o22))
	group := program.Int(p.User.GID)
	if p.Terminal {
		group = program.Int(-1) // a terminal's own stays
	}
	for fd, fifo := range []string{c.in.Stdin, c.in.Stdout, c.in.Stderr} {
		if fifo != "" { // for a process that opens /dev/stdout
			c.Call("own standard streams", unix.SYS_FCHOWN, program.Int(fd), program.Int(p.User.UID), group).Allow(unix.EINVAL, unix.EPERM, unix.EROFS)
		}
	}
	// As root, that may get where the user may not; as the user, once more.
	c.Call("change to the working directory", unix.SYS_CHDIR, program.Text(p.Cwd)).Allow(unix.EACCES)
	c.Call("close files", unix.SYS_CLOSE_RANGE, program.Int(3), program.Int(^uint32(0)), program.Int(0))
	if !p.NoNewPrivileges {
		c.filter() // needs a right that is about to be lost
	}
	c.rights(p)
	c.Call(fmt.Sprintf("change to the working directory %q", p.Cwd), unix.SYS_CHDIR, program.Text(p.Cwd))
	if p.NoNewPrivileges {
		c.Call("forbid new privileges", unix.SYS_PRCTL, program.Int(unix.PR_SET_NO_NEW_PRIVS), program.Int(1), null, null, null)
		c.filter()
	}
	c.exec(p)
}

func (c *compiler) filter() {
	if c.in.Filter == nil {
		return
	}
	const setModeFilter = 1
	prog := program.Words(program.Int(len(c.in.Filter)/8), program.Bytes(c.in.Filter)) // struct sock_fprog
	c.Call("filter system calls", unix.SYS_SECCOMP, program.Int(setModeFilter), null, prog)
}

// rights drops all capabilities but those of the spec and becomes the user.
func (c *compiler) rights(p *specs.Process) {
	bounding := mask(p.Capabilities.Bounding)
	for n := range 64 {
		if bounding&(1<<n) == 0 { // a kernel knows about 40 of them
			c.Call("drop a capability", unix.SYS_PRCTL, program.Int(unix.PR_CAPBSET_DROP), program.Int(n), null, null, null).Allow(unix.EINVAL)
		}
	}
	c.Call("keep capabilities", unix.SYS_PRCTL, program.Int(unix.PR_SET_KEEPCAPS), program.Int(1), null, null, null)
	groups := make([]byte, 0, 4*len(p.User.AdditionalGids))
	for _, g := range p.User.AdditionalGids {
		groups = binary.LittleEndian.AppendUint32(groups, g)
	}
	c.Call("set groups", unix.SYS_SETGROUPS, program.Int(len(p.User.AdditionalGids)), program.Bytes(groups))
	c.Call("set group", unix.SYS_SETRESGID, program.Int(p.User.GID), program.Int(p.User.GID), program.Int(p.User.GID))
	c.Call("set user", unix.SYS_SETRESUID, program.Int(p.User.UID), program.Int(p.User.UID), program.Int(p.User.UID))
	c.Call("keep no capabilities", unix.SYS_PRCTL, program.Int(unix.PR_SET_KEEPCAPS), null, null, null, null)
	header := binary.LittleEndian.AppendUint64(nil, unix.LINUX_CAPABILITY_VERSION_3)
	var data []byte
	sets := []uint64{mask(p.Capabilities.Effective), mask(p.Capabilities.Permitted), mask(p.Capabilities.Inheritable)}
	for half := range 2 {
		for _, s := range sets {
			data = binary.LittleEndian.AppendUint32(data, uint32(s>>(32*half)))
		}
	}
	c.Call("set capabilities", unix.SYS_CAPSET, program.Bytes(header), program.Bytes(data))
	c.Call("clear ambient capabilities", unix.SYS_PRCTL, program.Int(unix.PR_CAP_AMBIENT), program.Int(unix.PR_CAP_AMBIENT_CLEAR_ALL), null, null, null)
}

// exec looks a command without a slash up in PATH, as a shell does.
func (c *compiler) exec(p *specs.Process) {
	command := p.Args[0]
	label := fmt.Sprintf("exec: %q", command)
	argv, envp := program.Texts(p.Args), program.Texts(p.Env)
	if strings.Contains(command, "/") {
		c.Call(label, unix.SYS_EXECVE, program.Text(command), argv, envp)
		return
	}
	for _, kv := range p.Env {
		dirs, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(dirs, ":") {
			if dir == "" {
				dir = "."
			}
			c.Call(label, unix.SYS_EXECVE, program.Text(dir+"/"+command), argv, envp).Allow(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		}
	}
	c.Fail(label+": executable file not found in $PATH", unix.ENOENT)
}

// mask turns names such as CAP_KILL into bits. Names that are not known give
// no right.
func mask(names []string) (bits uint64) {
	for _, n := range names {
		if i := slices.Index(capabilities[:], strings.TrimPrefix(n, "CAP_")); i >= 0 {
			bits |= 1 << i
		}
	}
	return bits
}

// capabilities are the kernel's, by number.
var capabilities = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
	"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
	"SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
	"AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
	"PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

func sorted(m map[string]string) (out [][2]string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, [2]string{k, m[k]})
	}
	return out
}
