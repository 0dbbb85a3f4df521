// Package confine compiles an OCI specification into a program of system calls
// that puts a new process into its container, and another that puts one into a
// container that runs. It is pure: everything it has to know of the machine is
// in its input.
//
// The root file system is mounted and entered first; everything else is then
// mounted from inside. A symbolic link of the image therefore leads nowhere but
// to the image, whatever it says. What comes from the host (volumes, the
// container's own control groups) is opened before that, as detached copies of
// mounts. /proc comes last, so that no mount point is ever looked up through one
// of its links.
package confine

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/program"
)

// Root is a container's root file system: layers of the image below a directory
// of its own.
type Root struct {
	Lower       []string // directories, uppermost first
	Upper, Work string
	// Below is a directory under all layers, with what the container is mounted
	// over: what the image lacks need not be made in Upper then. "" is none.
	Below string
}

// Mounted is one hierarchy of version 1 control groups: where a container sees
// it, and its own group.
type Mounted struct{ Name, Source string }

// Input is what a program is compiled from.
type Input struct {
	ID     string // of the container
	Spec   *specs.Spec
	At     string          // a directory to have the root file system at; containers may share it, as none sees the other's mounts
	Files  map[string]bool // sources of mounts that are files and not directories
	Join   []string        // control groups to enter, by the files to write "0" to; with version 2 the child is born in its group
	Groups []Mounted       // with version 1; with version 2 the hierarchy is mounted as the container's namespace shows it

	Stdin, Stdout, Stderr string // FIFOs; "" is /dev/null
	Filter                []byte // of system calls, as package seccomp makes it; nil is none
}

// The inputs of the programs (see program.Input).
const (
	// Netns is, for Start, an open network namespace.
	Netns = 0
	// Rootfs is, for Start, the root file system: a mount that is nowhere yet.
	Rootfs = 1
	// Pidfd is, for Enter, a process of the container.
	Pidfd = 0
)

// kept is the first descriptor of those that a program keeps for itself.
const kept = 400

type compiler struct {
	program.Builder
	in   Input
	next int             // descriptor
	made map[string]bool // directories
}

// Start is the program of a container's first process. Run it in a child with
// the program's flags.
func Start(in Input) (program.Program, error) {
	if err := supported(in.Spec); err != nil {
		return program.Program{}, err
	}
	c := &compiler{in: in, next: kept, made: map[string]bool{}}
	c.begin()
	c.Call("enter the network namespace", unix.SYS_SETNS, program.Input(Netns), program.Int(unix.CLONE_NEWNET))
	c.groupNamespace()
	c.session()
	c.Call("make mounts private", unix.SYS_MOUNT, null, program.Text("/"), null, program.Int(unix.MS_REC|unix.MS_PRIVATE), null)
	sources, err := c.sources()
	if err != nil {
		return program.Program{}, err
	}
	groups := c.groups()
	c.stdio(false)
	c.root()
	if err := c.mounts(sources, groups); err != nil {
		return program.Program{}, err
	}
	if name := in.Spec.Hostname; name != "" {
		c.Call("set the host name", unix.SYS_SETHOSTNAME, program.Text(name), program.Int(len(name)))
	}
	c.proc()
	c.null(0, unix.O_RDONLY, in.Stdin)
	c.null(1, unix.O_WRONLY, in.Stdout)
	c.null(2, unix.O_WRONLY, in.Stderr)
	c.directory(in.Spec.Process.Cwd)
	if in.Spec.Root.Readonly {
		c.setattr("make the root file system read-only", atCwd, "/", 0, unix.MOUNT_ATTR_RDONLY, 0)
	}
	c.process()
	p, err := c.Build()
	for _, ns := range in.Spec.Linux.Namespaces {
		p.Flags |= namespaceFlags[ns.Type]
	}
	p.Flags &^= unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP // see groupNamespace
	return p, err
}

// groupNamespace has the process's control group be the root of those that the
// container sees. The process makes the namespace itself: one that was made with
// it would have its maker's group as the root, even though it is born in its
// own. It comes before /sys/fs/cgroup is mounted, as a mount from the host's
// namespace would set the options of all mounts of the hierarchy.
func (c *compiler) groupNamespace() {
	for _, ns := range c.in.Spec.Linux.Namespaces {
		if ns.Type == specs.CgroupNamespace {
			c.Call("make a control group namespace", unix.SYS_UNSHARE, program.Int(unix.CLONE_NEWCGROUP))
		}
	}
}

// Enter is the program of a process that joins a running container. If it has a
// terminal, its standard streams are to be paths of that. second is
// the call after which it is a second process (see program.Options.Forks).
func Enter(in Input) (p program.Program, second int, err error) {
	c := &compiler{in: in, next: kept, made: map[string]bool{}}
	c.begin()
	c.stdio(true)
	flags := uint64(0)
	for _, ns := range in.Spec.Linux.Namespaces {
		flags |= namespaceFlags[ns.Type]
	}
	c.Call("enter the container's namespaces", unix.SYS_SETNS, program.Input(Pidfd), program.Int(flags|unix.CLONE_NEWNET))
	c.null(0, unix.O_RDONLY, in.Stdin)
	c.null(1, unix.O_WRONLY, in.Stdout)
	c.null(2, unix.O_WRONLY, in.Stderr)
	// Nothing of the host is open when it becomes visible in the container.
	c.Call("close files", unix.SYS_CLOSE_RANGE, program.Int(3), program.Int(^uint32(0)), program.Int(0))
	second = c.Len()
	// A process namespace is for children: the second process is in it. It is
	// the caller's child too.
	c.Call("make a process", unix.SYS_CLONE, program.Int(unix.CLONE_VM|unix.CLONE_VFORK|unix.CLONE_PARENT), null, null, null, null).
		Leave().Into(c.Call("who it is", unix.SYS_GETPID), 5)
	c.session()
	if in.Spec.Process.Terminal {
		c.Call("take the terminal", unix.SYS_IOCTL, program.Int(0), program.Int(unix.TIOCSCTTY), null)
	}
	c.score()
	c.process()
	p, err = c.Build()
	return p, second, err
}

var null = program.Int(0)

const atCwd = -100

var namespaceFlags = map[specs.LinuxNamespaceType]uint64{
	specs.MountNamespace: unix.CLONE_NEWNS, specs.PIDNamespace: unix.CLONE_NEWPID, specs.IPCNamespace: unix.CLONE_NEWIPC,
	specs.UTSNamespace: unix.CLONE_NEWUTS, specs.CgroupNamespace: unix.CLONE_NEWCGROUP, specs.NetworkNamespace: unix.CLONE_NEWNET,
}

// supported refuses what a program cannot do; such containers are for runc.
func supported(s *specs.Spec) error {
	for _, ns := range s.Linux.Namespaces {
		if _, ok := namespaceFlags[ns.Type]; !ok {
			return fmt.Errorf("namespace %q is not supported", ns.Type)
		}
	}
	if len(s.Linux.Devices) > 0 || s.Process.Terminal || s.Linux.RootfsPropagation != "" {
		return errors.New("devices, terminals and shared mounts are not supported")
	}
	return nil
}

// begin has nothing but defaults inherited, and enters the control groups, so
// that what follows is on the container's account.
func (c *compiler) begin() {
	c.Call("unblock signals", unix.SYS_RT_SIGPROCMASK, program.Int(sigSetmask), program.Bytes(make([]byte, 8)), null, program.Int(8))
	c.Call("set umask", unix.SYS_UMASK, null)
	for _, f := range c.in.Join {
		c.write("enter control group "+path.Dir(f), f, "0")
	}
}

const sigSetmask = 2

func (c *compiler) write(label, file, text string) {
	open := c.Call(label, unix.SYS_OPENAT, program.Int(atCwd), program.Text(file), program.Int(unix.O_WRONLY|unix.O_CLOEXEC), null)
	open.Into(c.Call(label, unix.SYS_WRITE, null, program.Bytes([]byte(text)), program.Int(len(text))), 0)
}

// session is a session of its own, with a session keyring of its own that its
// user may search: what runc does.
func (c *compiler) session() {
	c.Call("make a session", unix.SYS_SETSID).Allow(unix.EPERM)
	const ringPerm = 0x3f1b0000 // everything for who has it; view, read, search and link for the user
	join := c.Call("join the session keyring", unix.SYS_KEYCTL, program.Int(unix.KEYCTL_JOIN_SESSION_KEYRING), program.Text("_ses."+c.in.ID)).Allow(unix.ENOSYS)
	perm := c.Call("open up the session keyring", unix.SYS_KEYCTL, program.Int(unix.KEYCTL_SETPERM), null, program.Int(ringPerm)).Allow(unix.ENOSYS, unix.EACCES, unix.EINVAL)
	join.Into(perm, 1)
}

// stdio opens the FIFOs, whose other ends are open: nothing blocks.
func (c *compiler) stdio(exec bool) {
	if c.in.Spec.Process.Terminal {
		for fd, at := range []string{c.in.Stdin, c.in.Stdout, c.in.Stderr} {
			c.dup("open the terminal", fd, at, unix.O_RDWR|unix.O_NOCTTY)
		}
		return
	}
	if exec && c.in.Stdin != "" {
		c.dup("open standard input", 0, c.in.Stdin, unix.O_RDONLY)
	}
	// For reading as well: then the container is not killed for what it writes
	// while nobody reads it, as long as it fits the pipe.
	flags := unix.O_RDWR
	if exec {
		flags = unix.O_WRONLY // an exec ends with who has asked for it
	}
	if c.in.Stdout != "" {
		c.dup("open standard output", 1, c.in.Stdout, flags)
	}
	if c.in.Stderr != "" {
		c.dup("open standard error", 2, c.in.Stderr, flags)
	}
}

func (c *compiler) dup(label string, fd int, file string, flags int) {
	open := c.Call(label, unix.SYS_OPENAT, program.Int(atCwd), program.Text(file), program.Int(flags|unix.O_CLOEXEC), null)
	open.Into(c.Call(label, unix.SYS_DUP3, null, program.Int(fd), null), 0)
}

// null gives a stream that goes nowhere the container's own /dev/null.
func (c *compiler) null(fd, flags int, fifo string) {
	if fifo == "" {
		c.dup("open /dev/null", fd, "/dev/null", flags)
	}
}

// keep has a new descriptor at a number that later calls know.
func (c *compiler) keep(label string, from program.Step) int {
	fd := c.next
	c.next++
	from.Into(c.Call(label, unix.SYS_DUP3, null, program.Int(fd), program.Int(unix.O_CLOEXEC)), 0)
	return fd
}

// root makes the root file system the process's.
func (c *compiler) root() {
	const emptyPath = 0x4
	c.Call("take the root file system", unix.SYS_MOVE_MOUNT, program.Input(Rootfs), program.Text(""), program.Int(atCwd), program.Text(c.in.At), program.Int(emptyPath))
	c.Call("change to "+c.in.At, unix.SYS_CHDIR, program.Text(c.in.At))
	c.Call("change the root", unix.SYS_PIVOT_ROOT, program.Text("."), program.Text("."))
	c.Call("leave the host's root", unix.SYS_UMOUNT2, program.Text("."), program.Int(unix.MNT_DETACH))
	c.Call("change to /", unix.SYS_CHDIR, program.Text("/"))
}

// Overlay is the mount of a root file system: the options, and the directory
// that their paths are relative to.
func (r Root) Overlay() (base, options string, err error) {
	if len(r.Lower) == 0 {
		return "", "", errors.New("the root file system has no layers")
	}
	base, lower := shorten(r.Lower)
	const page = 4096 // the kernel takes one of options
	join := func(lower []string) string {
		return "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + r.Upper + ",workdir=" + r.Work + ",index=off,volatile"
	}
	options = join(lower)
	if len(options) >= page {
		return "", "", fmt.Errorf("the image has too many layers: %d", len(lower))
	}
	if all := join(append(slices.Clone(lower), r.Below)); r.Below != "" && len(all) < page {
		options = all
	}
	for _, p := range slices.Concat(lower, []string{r.Upper, r.Work, r.Below}) {
		if strings.ContainsAny(p, ":,\\") {
			return "", "", fmt.Errorf("directory %q of the root file system: its name has a letter that overlay mounts do not take", p)
		}
	}
	return base, options, nil
}

// shorten takes the common parent of layers out: the kernel takes one page of
// options.
func shorten(lower []string) (base string, rest []string) {
	base = path.Dir(lower[0])
	for _, l := range lower {
		for base != "/" && !strings.HasPrefix(l, base+"/") {
			base = path.Dir(base)
		}
	}
	for _, l := range lower {
		rest = append(rest, strings.TrimPrefix(strings.TrimPrefix(l, base), "/"))
	}
	return base, rest
}

// directory makes a directory and those above it.
func (c *compiler) directory(dir string) {
	for i := 1; i <= len(dir); i++ {
		if i == len(dir) || dir[i] == '/' {
			if p := dir[:i]; p != "/" && !c.made[p] {
				c.made[p] = true
				c.Call(fmt.Sprintf("make directory %q", p), unix.SYS_MKDIRAT, program.Int(atCwd), program.Text(p), program.Int(0o755)).Allow(unix.EEXIST, unix.EROFS)
			}
		}
	}
}

// file makes an empty file to mount over. A link that leads nowhere gives way.
func (c *compiler) file(name string) {
	c.directory(path.Dir(name))
	label := fmt.Sprintf("make file %q", name)
	create := func(flags int) program.Step {
		return c.Call(label, unix.SYS_OPENAT, program.Int(atCwd), program.Text(name), program.Int(unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK|flags), program.Int(0o755))
	}
	create(0).Allow(unix.ENOENT, unix.EROFS).Skip(2)
	c.Call(label, unix.SYS_UNLINKAT, program.Int(atCwd), program.Text(name), null).Allow(unix.ENOENT, unix.EROFS)
	create(unix.O_EXCL).Allow(unix.EEXIST, unix.EROFS)
}

// setattr changes the flags of a mount, at a path or as an open one ("").
func (c *compiler) setattr(label string, fd int, at string, flags int, set, propagation uint64) program.Step {
	attr := program.Words(program.Int(set), program.Int(0), program.Int(propagation), program.Int(0))
	if at == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	return c.Call(label, unix.SYS_MOUNT_SETATTR, program.Int(fd), program.Text(at), program.Int(flags), attr, program.Int(32))
}

// notThere are errors of paths that a kernel does not have.
var notThere = []syscall.Errno{unix.ENOENT, unix.ENOTDIR}
