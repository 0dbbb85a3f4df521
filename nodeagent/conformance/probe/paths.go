package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Where the kernel's secrets and levers are; a runtime masks them or makes
// them read-only. One that this kernel does not have is told as such.
var delicate = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
	"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap", "/sys/devices/system/cpu/cpu0/thermal_throttle",
	"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
	"/proc/kmsg", "/proc/kallsyms", "/proc/kpageflags", "/proc/kpagecount", "/proc/mem", "/proc/config.gz", "/proc/vmallocinfo", "/proc/slabinfo", "/proc/key-users",
	"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname", "/proc/sys/kernel/sysrq", "/proc/sys/vm/panic_on_oom",
	"/proc/sys/fs/binfmt_misc", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/user/max_user_namespaces",
	"/sys/kernel/uevent_helper", "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/fs/bpf", "/sys/power/state", "/sys/class/net/lo/mtu", "/sys/fs/cgroup/release_agent",
	"/dev/mem", "/dev/kmsg", "/dev/port", "/dev/kvm", "/dev/fuse", "/dev/net/tun",
	"/.dockerenv", "/run", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/etc/shadow", "/root", "/host", "/oldroot", "/.pivot_root", "/put_old",
}

func paths() {
	for _, p := range delicate {
		say("path."+p, look(p))
	}
	for _, p := range []string{"/proc/1/root", "/proc/self/root", "/proc/self/cwd", "/proc/1/exe", "/proc/1/environ", "/proc/1/mem"} {
		say("path."+p, look(p))
	}
	entries, _ := os.ReadDir("/")
	for _, e := range entries {
		i, err := os.Lstat("/" + e.Name())
		if err == nil {
			say("root./"+e.Name(), i.Mode())
		}
	}
	// Directories that only the kernel fills, and whether a file can be made there.
	for _, d := range []string{"/", "/etc", "/dev", "/dev/shm", "/dev/pts", "/dev/mqueue", "/proc", "/proc/sys", "/proc/acpi", "/proc/scsi", "/proc/1", "/sys", "/sys/firmware", "/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/devices", "/run", "/tmp"} {
		say("create."+d, try("create", filepath.Join(d, "probe-new")))
	}
	for _, f := range []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} {
		say("file."+f, text(f))
		say("open."+f, try("rw", f))
		i, err := os.Stat(f)
		if err == nil {
			say("mode."+f, i.Mode())
		}
	}
	writable()
}

// look tells what a path is and how opening it for reading and writing goes.
func look(p string) string {
	i, err := os.Lstat(p)
	if err != nil {
		return why(err)
	}
	kind := i.Mode().Type().String()
	if i.IsDir() {
		entries, err := os.ReadDir(p)
		return fmt.Sprintf("%s read=%s empty=%v create=%s", kind, why(err), len(entries) == 0, try("create", filepath.Join(p, "probe-new")))
	}
	var read string
	if p == "/proc/kmsg" || p == "/proc/1/mem" || p == "/proc/config.gz" {
		read = try("r", p)
	} else if f, err := os.Open(p); err != nil {
		read = why(err)
	} else {
		n, err := f.Read(make([]byte, 64))
		f.Close()
		if err == io.EOF {
			err = nil
		}
		read = fmt.Sprintf("%s something=%v", why(err), n > 0)
	}
	return fmt.Sprintf("%s read=%s write=%s", kind, read, try("w", p))
}

// try attempts one thing with a path and undoes what it has made.
func try(verb, p string) string {
	var err error
	switch verb {
	case "r":
		err = opens(p, unix.O_RDONLY)
	case "w":
		err = opens(p, unix.O_WRONLY)
	case "rw":
		err = opens(p, unix.O_RDWR)
	case "create":
		var fd int
		if fd, err = unix.Open(p, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err == nil {
			unix.Close(fd)
			err = unix.Unlink(p)
		}
	case "put": // a file that stays
		err = os.WriteFile(p, []byte("put by the probe\n"), 0o644)
	case "cat":
		return text(p)
	case "exec":
		err = unix.Access(p, unix.X_OK)
	case "list":
		var names []string
		entries, err := os.ReadDir(p)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return fmt.Sprintf("%q %s", names, why(err))
	default:
		return "no such verb"
	}
	return why(err)
}

func opens(p string, flags int) error {
	fd, err := unix.Open(p, flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// writable finds everything below /proc (but for processes) and /sys that this
// process could open for writing. Nothing is opened.
func writable() {
	var all []string
	for _, root := range []string{"/proc", "/sys"} {
		_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d == nil {
				return nil
			}
			if d.IsDir() && filepath.Dir(p) == "/proc" && strings.Trim(d.Name(), "0123456789") == "" {
				return fs.SkipDir
			}
			if d.Type()&fs.ModeSymlink != 0 {
				return nil
			}
			if unix.Faccessat(unix.AT_FDCWD, p, unix.W_OK, 0) == nil {
				all = append(all, p)
			}
			return nil
		})
	}
	slices.Sort(all)
	say("writable", fmt.Sprint(all))
}
