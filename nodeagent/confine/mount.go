package confine

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/program"
)

var mountFlags = map[string]struct{ flag, attr uint64 }{
	"nosuid": {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID}, "nodev": {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
	"noexec": {unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC}, "ro": {unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
	"strictatime": {unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME}, "relatime": {unix.MS_RELATIME, unix.MOUNT_ATTR_RELATIME},
	"rw": {}, "bind": {}, "rbind": {}, "rprivate": {}, "private": {},
}

// options sorts a mount's options into flags of mount, attributes of
// mount_setattr, and what the file system takes.
func options(m specs.Mount) (flags, attrs uint64, data string, err error) {
	var rest []string
	for _, o := range m.Options {
		switch f, ok := mountFlags[o]; {
		case ok:
			flags, attrs = flags|f.flag, attrs|f.attr
		case m.Type == "bind":
			return 0, 0, "", fmt.Errorf("mount at %q: option %q is not supported", m.Destination, o)
		default:
			rest = append(rest, o)
		}
	}
	return flags, attrs, strings.Join(rest, ","), nil
}

func recursive(m specs.Mount) int {
	if slices.Contains(m.Options, "rbind") {
		return atRecursive
	}
	return 0
}

const atRecursive = 0x8000

// groupAttrs are the flags of version 1 control groups in a container.
const groupAttrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_RELATIME

// sources opens copies of what is mounted from the host, each with its own
// flags, while the host's root is the root. They are in the order of the spec.
func (c *compiler) sources() (fds []int, err error) {
	for _, m := range c.in.Spec.Mounts {
		if m.Type != "bind" {
			continue
		}
		_, attrs, _, err := options(m)
		if err != nil {
			return nil, err
		}
		if d := path.Clean(m.Destination); d == "/" || d == "/dev" || d == "/proc" || strings.HasPrefix(d, "/proc/") || d == "/dev/null" {
			return nil, fmt.Errorf("mount %q at %q: not allowed there", m.Source, m.Destination)
		}
		fds = append(fds, c.source(fmt.Sprintf("mount %q at %q", m.Source, m.Destination), m.Source, recursive(m), attrs))
	}
	return fds, nil
}

func (c *compiler) source(label, from string, recurse int, attrs uint64) int {
	open := c.Call(label, unix.SYS_OPEN_TREE, program.Int(atCwd), program.Text(from), program.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recurse))
	fd := c.keep(label, open)
	c.setattr(label, fd, "", recurse, attrs, unix.MS_PRIVATE)
	return fd
}

// groups opens the container's own control groups, for it to see. They get their
// flags all at once, where they are mounted.
func (c *compiler) groups() (opened []program.Step) {
	for _, g := range c.in.Groups {
		opened = append(opened, c.Call("mount control group "+g.Source, unix.SYS_OPEN_TREE, program.Int(atCwd), program.Text(g.Source),
			program.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)))
	}
	return opened
}

func (c *compiler) place(label string, fd int, at string) program.Step {
	const emptyPath, followTarget = 0x4, 0x10
	return c.Call(label, unix.SYS_MOVE_MOUNT, program.Int(fd), program.Text(""), program.Int(atCwd), program.Text(at), program.Int(emptyPath|followTarget))
}

// mounts does all mounts but /proc, inside the new root.
func (c *compiler) mounts(sources []int, groups []program.Step) error {
	for _, m := range c.in.Spec.Mounts {
		label := fmt.Sprintf("mount %q at %q", m.Source, m.Destination)
		if m.Type == "bind" {
			if c.in.Files[m.Source] {
				c.file(m.Destination)
			} else {
				c.directory(m.Destination)
			}
			c.place(label, sources[0], m.Destination)
			sources = sources[1:]
			continue
		}
		flags, attrs, data, err := options(m)
		if err != nil {
			return err
		}
		if m.Type == "proc" {
			continue
		}
		c.directory(m.Destination)
		mount := func(kind string, flags uint64, data string) {
			source := kind
			if kind == m.Type {
				source = m.Source
			}
			c.Call(label, unix.SYS_MOUNT, program.Text(source), program.Text(m.Destination), program.Text(kind), program.Int(flags), program.Text(data))
		}
		switch {
		case m.Type == "cgroup" && len(c.in.Groups) == 0:
			mount("cgroup2", flags, "") // read-only is the mount alone: the hierarchy is the host's
		case m.Type == "cgroup":
			mount("tmpfs", flags&^unix.MS_RDONLY, "mode=755")
			for i, g := range c.in.Groups {
				at := path.Join(m.Destination, g.Name)
				c.directory(at)
				groups[i].Into(c.place(label, 0, at), 0)
			}
			c.setattr(label, atCwd, m.Destination, atRecursive, attrs|groupAttrs, unix.MS_PRIVATE)
		default:
			mount(m.Type, flags, data)
		}
		if m.Destination == "/dev" {
			c.devices()
		}
	}
	return nil
}

// devices are the nodes that every container has.
func (c *compiler) devices() {
	for name, number := range devices() {
		c.Call("make /dev/"+name, unix.SYS_MKNODAT, program.Int(atCwd), program.Text("/dev/"+name), program.Int(unix.S_IFCHR|0o666), program.Int(number))
	}
	for _, l := range [][2]string{
		{"pts/ptmx", "/dev/ptmx"},
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
		{"/proc/kcore", "/dev/core"},
	} {
		c.Call("make "+l[1], unix.SYS_SYMLINKAT, program.Text(l[0]), program.Int(atCwd), program.Text(l[1]))
	}
}

// devices yields names and numbers in a fixed order.
func devices() func(func(string, uint64) bool) {
	return func(yield func(string, uint64) bool) {
		for _, d := range []struct {
			name         string
			major, minor uint32
		}{{"null", 1, 3}, {"random", 1, 8}, {"full", 1, 7}, {"tty", 5, 0}, {"zero", 1, 5}, {"urandom", 1, 9}} {
			if !yield(d.name, unix.Mkdev(d.major, d.minor)) {
				return
			}
		}
	}
}

// proc mounts /proc, sets what is set through it, and hides and protects what
// has to be.
func (c *compiler) proc() {
	s := c.in.Spec
	for _, m := range s.Mounts {
		if m.Type == "proc" {
			flags, _, data, _ := options(m) // a proc mount's options have no error
			c.directory(m.Destination)
			c.Call("mount /proc", unix.SYS_MOUNT, program.Text("proc"), program.Text(m.Destination), program.Text("proc"), program.Int(flags), program.Text(data))
			// /dev/core is there when what it leads to is.
			c.Call("look for /proc/kcore", unix.SYS_FACCESSAT, program.Int(atCwd), program.Text("/proc/kcore"), null, null).Allow(unix.ENOENT).Skip(1)
			c.Call("remove /dev/core", unix.SYS_UNLINKAT, program.Int(atCwd), program.Text("/dev/core"), null).Allow(notThere...)
		}
	}
	for _, kv := range sorted(s.Linux.Sysctl) {
		c.write("set sysctl "+kv[0], "/proc/sys/"+strings.ReplaceAll(kv[0], ".", "/"), kv[1])
	}
	c.score()
	for _, p := range s.Linux.MaskedPaths {
		c.Call("mask "+p, unix.SYS_MOUNT, program.Text("/dev/null"), program.Text(p), null, program.Int(unix.MS_BIND), null).Allow(notThere...).Skip(1)
		c.Call("mask "+p, unix.SYS_MOUNT, program.Text("tmpfs"), program.Text(p), program.Text("tmpfs"), program.Int(unix.MS_RDONLY), null).Allow(notThere...)
	}
	for _, p := range s.Linux.ReadonlyPaths {
		label := "protect " + p
		c.Call(label, unix.SYS_MOUNT, program.Text(p), program.Text(p), null, program.Int(unix.MS_BIND|unix.MS_REC), null).Allow(notThere...)
		c.setattr(label, atCwd, p, atRecursive, unix.MOUNT_ATTR_RDONLY, 0).Allow(notThere...)
	}
}

func (c *compiler) score() {
	if s := c.in.Spec.Process.OOMScoreAdj; s != nil {
		c.write("set the OOM score", "/proc/self/oom_score_adj", fmt.Sprint(*s))
	}
}
