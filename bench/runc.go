package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/podsnap/podsnap/nodeagent/engine"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
	"golang.org/x/sys/unix"
)

// runc runs the measured function's image, unpacked, with `runc run`: the
// baseline. Its containers are confined as those of the platform are. They have
// places, each with a network namespace that stands ready, and one root file system
// for all (both of which favour the baseline).
type runc struct {
	dir  string // of the bundles, by place, and of the root file system that they share
	name string // what containers, namespaces and cgroups of this run are called
	net  string // the first three bytes of the addresses
	conf *v1.ConfigFile
}

// baseline takes the function's image out of the platform's registry and makes
// bundles of it, at the first call.
func (b *bench) baseline() *runc {
	if b.runc != nil {
		return b.runc
	}
	b.prepare()
	p := b.platform()
	ref, err := name.ParseReference(b.gateway()+"/"+b.image, name.Insecure)
	b.must(err)
	img, err := remote.Image(ref, remote.WithAuth(&authn.Basic{Username: "admin", Password: p.Password}))
	b.must(err)
	conf, err := img.ConfigFile()
	b.must(err)
	// Named after the process, so that two runs do not meet.
	id := os.Getpid()
	r := &runc{dir: filepath.Join(b.dir, "runc"), name: fmt.Sprintf("podsnap-bench-%d", id), net: fmt.Sprintf("169.254.%d", 16+id%200), conf: conf}
	b.must(unpack(img, filepath.Join(r.dir, "rootfs")))
	var batch strings.Builder
	for i := range most {
		b.must(os.MkdirAll(r.bundle(i), 0o700))
		b.must(r.writeSpec(i, b.bareRunc))
		ns, veth := r.id(i), fmt.Sprintf("psb%x.%d", id, i)
		fmt.Fprintf(&batch, "netns add %s\nlink add %s type veth peer name eth0 netns %s\naddr add %s/30 dev %s\nlink set %s up\n", ns, veth, ns, r.ip(i, 1), veth, veth)
	}
	b.Cleanup(r.clean)
	b.must(ip(batch.String(), "-batch", "-"))
	b.must(together(8, func(w int) error {
		for i := w; i < most; i += 8 {
			inside := fmt.Sprintf("addr add %s/30 dev eth0\nlink set eth0 up\nlink set lo up\n", r.ip(i, 2))
			if err := ip(inside, "-n", r.id(i), "-batch", "-"); err != nil {
				return err
			}
		}
		return nil
	}))
	b.runc = r
	return r
}

func (r *runc) id(i int) string     { return fmt.Sprintf("%s-%d", r.name, i) }
func (r *runc) bundle(i int) string { return filepath.Join(r.dir, r.id(i)) }

// ip is an address of a place's /30: 1 is the host's, 2 the container's.
func (r *runc) ip(i, host int) string { return fmt.Sprintf("%s.%d", r.net, 4*i+host) }

func ip(stdin string, args ...string) error {
	cmd := exec.Command("ip", args...) //nolint:noctx // answers at once
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// clean removes all of it, whatever a broken round has left.
func (r *runc) clean() {
	var batch strings.Builder
	for i := range most {
		_ = exec.Command("runc", "delete", "--force", r.id(i)).Run() //nolint:noctx // answers at once
		fmt.Fprintf(&batch, "netns del %s\n", r.id(i))
	}
	_ = ip(batch.String(), "-force", "-batch", "-")
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		dirs, _ := filepath.Glob(pattern + r.name)
		for _, d := range dirs {
			_ = os.Remove(d)
		}
	}
}

// start runs the container of place i and measures until it has answered. The
// caller stops it. crowd is how many are started at a time: it looks less often
// then, so as not to take the CPU that it waits for.
func (r *runc) start(ctx context.Context, i, crowd int) (took time.Duration, stop func() error, err error) {
	pidFile := filepath.Join(r.bundle(i), "pid")
	_ = os.Remove(pidFile)                                                                      // the last one's process is gone
	cmd := exec.Command("runc", "run", "--bundle", r.bundle(i), "--pid-file", pidFile, r.id(i)) //nolint:noctx // ended by stop
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	stop = func() error {
		// Straight to the process: what `runc kill` costs is not the baseline's fault.
		pid, err := readPid(pidFile)
		if err != nil {
			return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
		}
		err = syscall.Kill(pid, syscall.SIGKILL)
		_ = cmd.Wait() // it was killed
		return err
	}
	if err := answers(ctx, r.ip(i, 2)+":8080", crowd); err != nil {
		return 0, nil, errors.Join(err, stop(), errors.New(said.String()))
	}
	return time.Since(begin), stop, nil
}

// readPid waits for the file, which runc writes when the container runs
// already, and maybe has answered.
func readPid(file string) (int, error) {
	limit := time.NewTimer(5 * time.Second)
	defer limit.Stop()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		raw, err := os.ReadFile(file)
		if err == nil {
			return strconv.Atoi(string(raw))
		}
		select {
		case <-again.C:
		case <-limit.C:
			return 0, err
		}
	}
}

// plain runs the image's program as a child, without any isolation, and measures
// until it has answered: less than that no start can take.
func (r *runc) plain(ctx context.Context) (took time.Duration, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	at := l.Addr().String()
	l.Close() // free, and it is unlikely that it is taken at once
	_, port, _ := net.SplitHostPort(at)
	args := append(r.conf.Config.Entrypoint, r.conf.Config.Cmd...)
	cmd := exec.Command(filepath.Join(r.dir, "rootfs", args[0]), args[1:]...) //nolint:noctx // killed below
	cmd.Env = append(slices.Clone(r.conf.Config.Env), "port="+port, "metrics_port=0", "suppress_lock=true")
	cmd.Dir = filepath.Join(r.dir, "rootfs")
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	err = answers(ctx, at, 0)
	took = time.Since(begin)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	return took, err
}

// answers waits until addr, host:port, has answered a call.
func answers(ctx context.Context, addr string, crowd int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the baseline did not answer in 30 s"))
	defer cancel()
	again := time.NewTicker(time.Duration(1+crowd) * 300 * time.Microsecond)
	defer again.Stop()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	to := netip.MustParseAddrPort(addr)
	for {
		// One bare system call until there is a listener: asking must not cost
		// the baseline what it is measured for.
		if listens(to) && fetch(ctx, c, "http://"+addr+"/") == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// listens reports whether an address that is refused or accepted at once takes
// connections.
func listens(to netip.AddrPort) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}) == nil
}

// writeSpec writes what `runc run` runs at place i: confined as the platform's own
// containers of the function are, unless a bare container is asked for.
func (r *runc) writeSpec(i int, bare bool) error {
	made := r.bare
	if !bare {
		made = r.equal
	}
	s, err := made(i)
	if err != nil {
		return err
	}
	s.Root = &specs.Root{Path: filepath.Join(r.dir, "rootfs")}
	s.Linux.CgroupsPath = "/" + r.name + "/" + strconv.Itoa(i)
	s.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.MountNamespace},
		{Type: specs.NetworkNamespace, Path: "/run/netns/" + r.id(i)},
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.bundle(i), "config.json"), b, 0o600)
}

// equal is the specification that a function's container has in both runtimes of the
// platform: its file systems, masked and read-only paths, system call filter,
// capabilities, control groups, limits.
func (r *runc) equal(i int) (*specs.Spec, error) {
	for _, f := range []string{"hosts", "hostname", "resolv.conf"} {
		if err := os.WriteFile(filepath.Join(r.bundle(i), f), []byte("127.0.0.1 localhost\n"), 0o644); err != nil { //nolint:gosec // as a pod's
			return nil, err
		}
	}
	_, v2 := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	const shm = "the pod's"
	c := r.conf.Config
	s, err := spec.Container(spec.Input{
		Sandbox: r.id(i), Shm: shm, Files: r.bundle(i), Privilege: engine.OwnPrivilege(), CgroupV2: v2 == nil,
		Pod:   runtime.SandboxSpec{Hostname: r.id(i)},
		Image: runtime.ImageConfig{User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir},
		Spec:  runtime.ContainerSpec{Name: function, Resources: runtime.Resources{CPUShares: 2, Pids: 1024}, Security: runtime.Security{DropCapabilities: []string{"ALL"}}},
	})
	if err != nil {
		return nil, err
	}
	s.Hostname = r.id(i)
	for i, m := range s.Mounts {
		if m.Source == shm { // each of these containers is a pod of its own
			s.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=64m"}}
		}
	}
	s.Linux.Seccomp, err = new(spec.Profiles).Of(s)
	return s, err
}

// bare is next to no confinement: what the baseline was at first.
func (r *runc) bare(int) (*specs.Spec, error) {
	c := r.conf.Config
	s := &specs.Spec{
		Version: spec.Version,
		Process: &specs.Process{
			Args: append(c.Entrypoint, c.Cmd...), Env: c.Env, Cwd: cmp.Or(c.WorkingDir, "/"),
			User: specs.User{UID: 65532, GID: 65532}, NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}},
		},
		Linux: &specs.Linux{},
	}
	return s, nil
}

// unpack writes an image's files below dir.
func unpack(img v1.Image, dir string) error {
	r := mutate.Extract(img)
	defer r.Close()
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a root file system
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, h.FileInfo().Mode().Perm())
		case tar.TypeReg:
			err = writeAll(path, t, h.FileInfo().Mode().Perm())
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		case tar.TypeLink:
			err = os.Link(filepath.Join(dir, h.Linkname), path)
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
}

func writeAll(path string, r io.Reader, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
