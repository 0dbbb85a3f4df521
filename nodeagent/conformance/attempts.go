package conformance

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// attempts are what one probe's facts cannot tell.
func attempts() map[string]func(*rig) {
	return map[string]func(*rig){
		"memory limit": outOfMemory, "fork bomb": forkBomb, "orphans are reaped by the entry process": orphans,
		"what is left behind ends with the container": leftBehind, "exit codes": exitCodes,
		"rights of files": rightsOfFiles, "devices of the image": devicesOfImage, "writes stay in the container": writesStay,
		"volumes": volumes, "symbolic links at mount targets": symlinks, "working directory": workingDirectory,
		"foreign addresses": foreignAddress, "the runtime's own program": ownProgram, "another pod's litter": anotherPodsLitter,
		"the pause process": pauseProcess, "a control group of its own": ownGroups,
	}
}

func outOfMemory(r *rig) {
	sb := r.sandbox(runtime.SandboxSpec{})
	s := r.spec(sb, "eat")
	s.Resources.Memory = 24 << 20
	if x, out := r.run(s); x.ExitCode != 137 || !x.OOMKilled {
		r.t.Errorf("got %+v: %s; want an OOM kill", x, out)
	}
}

func forkBomb(r *rig) {
	sb := r.sandbox(runtime.SandboxSpec{})
	s := r.spec(sb, "bomb")
	s.Resources.Pids = 40
	x, out := r.run(s)
	f, err := parse(out)
	if err != nil || x.ExitCode != 0 {
		r.t.Fatalf("%+v, %v", x, err)
	}
	f.want(r.t, map[string]string{"bomb.error": "EAGAIN"})
	if n := f["bomb.made"]; len(n) > 2 || n == "0" || len(n) == 2 && n >= "40" {
		r.t.Errorf("%s processes were made under a limit of 40", n)
	}
}

func orphans(r *rig) {
	_, out := r.run(r.spec(r.sandbox(runtime.SandboxSpec{}), "orphan"))
	f, err := parse(out)
	if err != nil {
		r.t.Fatal(err)
	}
	f.want(r.t, map[string]string{"orphan.parent": "ok", "orphan.reaped": "true ok 9"})
}

// leftBehind: a process in a session of its own, deaf to signals, started by
// the container or by Exec, is gone with it, even where no pid namespace ends it.
func leftBehind(r *rig) {
	for _, hostPID := range []bool{false, true} {
		if hostPID && r.Single {
			continue
		}
		sb := r.sandbox(runtime.SandboxSpec{HostPID: hostPID, HostNetwork: hostPID})
		s := r.spec(sb, "hold")
		c := r.start(s)
		r.facts(s.LogPath)
		r.exec(c, "/bin/probe", "daemon")
		groups := groupsOf(r.t, c.Pid)
		if n := len(members(groups)); n != 2 {
			r.t.Errorf("host pid %v: %d processes in the container's groups %v, want 2", hostPID, n, groups)
		}
		if err := r.Runtime.RemoveContainer(r.t.Context(), c.ID); err != nil {
			r.t.Fatal(err)
		}
		for controller, g := range groups {
			if _, err := os.Stat(filepath.Join(hierarchy(controller), g)); err == nil && !r.Single { // or it is used again
				r.t.Errorf("host pid %v: the removed container's group is there: %s of %q", hostPID, g, controller)
			}
		}
		if left := members(groups); len(left) > 0 {
			r.t.Errorf("host pid %v: processes are left: %v", hostPID, left)
		}
		// The same when the entry process is what leaves it behind, and ends.
		s = r.spec(sb, "daemon")
		if x, _ := r.run(s); x.ExitCode != 0 {
			r.t.Fatalf("%+v", x)
		}
		if err := r.Runtime.RemoveSandbox(r.t.Context(), sb.ID); err != nil {
			r.t.Fatal(err)
		}
		for _, p := range processesOf(string(sb.UID)) {
			r.t.Errorf("host pid %v: a process of the removed pod is left: %s", hostPID, p)
		}
	}
}

// members are the processes in any of the groups.
func members(groups map[string]string) []string {
	all := map[string]bool{}
	for controller, g := range groups {
		b, _ := os.ReadFile(filepath.Join(hierarchy(controller), g, "cgroup.procs"))
		for p := range strings.FieldsSeq(string(b)) {
			all[p] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// processesOf are the processes whose cgroup's path has a certain part.
func processesOf(part string) []string {
	var out []string
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "/"+part) {
			out = append(out, f)
		}
	}
	return out
}

func exitCodes(r *rig) {
	sb := r.sandbox(runtime.SandboxSpec{})
	for _, code := range []int{0, 3, 255} {
		if x, _ := r.run(r.spec(sb, "exit", fmt.Sprint(code))); x.ExitCode != code || x.OOMKilled {
			r.t.Errorf("exit %d: got %+v", code, x)
		}
	}
	s := r.spec(sb, "hold")
	s.Name = "killed"
	c := r.start(s)
	r.facts(s.LogPath)
	for _, code := range []string{"0", "7"} {
		got, err := r.Runtime.Exec(r.t.Context(), c.ID, runtime.Exec{Command: []string{"/bin/probe", "exit", code}})
		if err != nil || fmt.Sprint(got) != code {
			r.t.Errorf("exec exit %s: got %d, %v", code, got, err)
		}
	}
	exits := r.Runtime.Events(r.t.Context())
	if err := r.Runtime.Signal(r.t.Context(), c.ID, syscall.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
	for x := range exits {
		if x.Container == c.ID {
			if x.ExitCode != 137 || x.OOMKilled {
				r.t.Errorf("SIGKILL: got %+v", x)
			}
			break
		}
	}
}

// rightsOfFiles: set-user-id and file capabilities win nothing, and where
// escalation is allowed no more than the bounding set.
func rightsOfFiles(r *rig) {
	sb := r.sandbox(runtime.SandboxSpec{})
	for _, escalation := range []bool{false, true} {
		s := r.spec(sb, "hold")
		s.Name, s.Security.AllowEscalation = fmt.Sprintf("escalation-%v", escalation), escalation
		c := r.start(s)
		r.facts(s.LogPath)
		none := "0000000000000000"
		for _, file := range []string{"/bin/suid", "/bin/capable"} {
			want := map[string]string{"status.Uid": "1000 1000 1000 1000", "status.Gid": "2000 2000 2000 2000", "status.CapEff": none, "status.CapPrm": none, "status.CapBnd": none}
			if escalation && file == "/bin/suid" {
				want["status.Uid"], want["status.Gid"] = "1000 0 0 0", "2000 0 0 0"
			}
			if file == "/bin/capable" {
				// The kernel refuses a program whose capabilities cannot be had.
				if code, err := r.Runtime.Exec(r.t.Context(), c.ID, runtime.Exec{Command: []string{file, "facts", "process"}}); err == nil && code == 0 {
					r.t.Errorf("%s runs with capabilities out of the bounding set", file)
				}
				continue
			}
			f, err := parse(r.exec(c, file, "facts", "process"))
			if err != nil {
				r.t.Fatal(err)
			}
			f.want(r.t, want)
		}
		if err := r.Runtime.RemoveContainer(r.t.Context(), c.ID); err != nil {
			r.t.Fatal(err)
		}
	}
}

func devicesOfImage(r *rig) {
	s := r.spec(r.sandbox(runtime.SandboxSpec{}), "try", "rw:/data/mem", "rw:/data/kmsg", "rw:/data/disk", "rw:/data/loop", "rw:/data/null")
	s.Security = runtime.Security{User: new(int64(0)), DefaultCapabilities: true, AllowEscalation: true}
	_, out := r.run(s)
	f, err := parse(out)
	if err != nil {
		r.t.Fatal(err)
	}
	f.want(r.t, map[string]string{"try.rw./data/mem": "EPERM", "try.rw./data/kmsg": "EPERM", "try.rw./data/disk": "EPERM", "try.rw./data/loop": "EPERM", "try.rw./data/null": "ok"})
}

// writesStay: neither another container nor the image sees a write.
func writesStay(r *rig) {
	sb := r.sandbox(runtime.SandboxSpec{})
	root := runtime.Security{User: new(int64(0)), DefaultCapabilities: true}
	s := r.spec(sb, "try", "put:/written", "put:/bin/probe2", "put:/etc/passwd", "put:/dev/written")
	s.Security = root
	_, out := r.run(s)
	f, err := parse(out)
	if err != nil {
		r.t.Fatal(err)
	}
	f.want(r.t, map[string]string{"try.put./written": "ok", "try.put./bin/probe2": "ok", "try.put./etc/passwd": "ok", "try.put./dev/written": "ok"})
	s = r.spec(sb, "try", "cat:/written", "cat:/bin/probe2", "cat:/etc/passwd", "cat:/dev/written")
	s.Security = root
	_, out = r.run(s)
	if f, err = parse(out); err != nil {
		r.t.Fatal(err)
	}
	f.want(r.t, map[string]string{
		"try.cat./written": "!ENOENT", "try.cat./bin/probe2": "!ENOENT", "try.cat./dev/written": "!ENOENT",
		"try.cat./etc/passwd": "root:x:0:0::/root:/bin/sh|app:x:1000:2000::/:/bin/sh",
	})
}

func volumes(r *rig) {
	dir := r.hostDir("volume")
	if err := os.Mkdir(filepath.Join(dir, "below"), 0o777); err != nil {
		r.t.Fatal(err)
	}
	sb := r.sandbox(runtime.SandboxSpec{})
	s := r.spec(sb, "try", "create:/data/ro/x", "create:/data/ro/below/x", "put:/data/rw/put", "create:/data/rw/nested/x", "list:/data/ro")
	s.Security = runtime.Security{User: new(int64(0)), DefaultCapabilities: true}
	s.Mounts = []runtime.Mount{
		{Source: dir, Target: "/data/rw/nested", ReadOnly: true}, // before the one that holds it
		{Source: dir, Target: "/data/ro", ReadOnly: true}, {Source: dir, Target: "/data/rw"},
	}
	if err := os.Mkdir(filepath.Join(dir, "nested"), 0o777); err != nil {
		r.t.Fatal(err)
	}
	_, out := r.run(s)
	f, err := parse(out)
	if err != nil {
		r.t.Fatal(err)
	}
	f.want(r.t, map[string]string{
		"try.create./data/ro/x": "EROFS", "try.create./data/ro/below/x": "EROFS", "try.create./data/rw/nested/x": "EROFS",
		"try.put./data/rw/put": "ok", "try.list./data/ro": `["below" "nested" "put"] ok`,
	})
}

// foreignAddress: a pod cannot send under an address that it does not have.
func foreignAddress(r *rig) {
	listen, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.Gateway, 53)))
	if err != nil {
		r.t.Fatal(err)
	}
	defer listen.Close()
	sb := r.sandbox(runtime.SandboxSpec{})
	other := r.sandbox(runtime.SandboxSpec{}) // its address is within the pod network
	foreign := []string{other.IP, "192.0.2.7", "127.0.0.1"}
	for _, raw := range []bool{true, false} {
		s := r.spec(sb, append([]string{"spoof", listen.LocalAddr().String()}, foreign...)...)
		s.Name = fmt.Sprintf("raw-%v", raw)
		s.Security = runtime.Security{User: new(int64(0)), DefaultCapabilities: raw}
		_, out := r.run(s)
		f, err := parse(out)
		if err != nil {
			r.t.Fatal(err)
		}
		f.want(r.t, map[string]string{"spoof.honest": "ok"})
		for _, a := range foreign {
			want := "EPERM" // no raw socket without the capability
			if raw {
				want = "ok"
			}
			f.want(r.t, map[string]string{"spoof.raw." + a: want})
		}
		if err := listen.SetReadDeadline(time.Now().Add(patience)); err != nil {
			r.t.Fatal(err)
		}
		// The honest one was sent last: what comes before it came through.
		for b := make([]byte, 100); ; {
			n, from, err := listen.ReadFromUDP(b)
			if err != nil {
				r.t.Fatal(err)
			}
			if string(b[:n]) == "honest" && from.IP.String() == sb.IP {
				break
			}
			r.t.Errorf("a datagram came from %s: %q", from, b[:n])
		}
	}
}

// ownProgram: while the runtime enters a container to run a command, a process
// inside does not get hold of the runtime's program or directories.
func ownProgram(r *rig) {
	s := r.spec(r.sandbox(runtime.SandboxSpec{}), "steal")
	s.Security = runtime.Security{User: new(int64(0)), DefaultCapabilities: true, AllowEscalation: true}
	c := r.start(s)
	r.await(s.LogPath, "steal=ready")
	for range 3 {
		r.exec(c, "/bin/probe", "facts")
		// A command that is the runtime itself, once it is inside.
		_, _ = r.Runtime.Exec(r.t.Context(), c.ID, runtime.Exec{Command: []string{"/proc/self/exe", "init"}})
	}
	if err := r.Runtime.Signal(r.t.Context(), c.ID, syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	r.facts(s.LogPath).want(r.t, map[string]string{"steal.wrote": "0", "steal.fds": "0"})
}

// remembersNone is what the probe says when the kernel has remembered nothing of
// connections that a pod made (tcp_no_metrics_save).
const remembersNone = "ok: none"

// anotherPodsLitter: what a pod leaves in its namespaces is not there for the
// next ones, whether it had no rights or many.
func anotherPodsLitter(r *rig) {
	all := runtime.Security{User: new(int64(0)), Privileged: true}
	must := []string{"shm", "msg", "sem", "mqueue", "file", "listen", "abstract", "connections"}
	rich := append([]string{"hostname", "domainname", "address", "address2"}, must...)
	if r.Single {
		all = runtime.Security{User: new(int64(0)), AddCapabilities: []string{"ALL"}}
	} else {
		rich = append(rich, "sysctl.net/ipv4/ip_forward", "sysctl.kernel/shmmni", "sysctl.net/ipv4/conf/eth0/rp_filter")
	}
	echo := net.JoinHostPort(r.Gateway.String(), r.echo())
	for _, l := range []struct {
		sandbox runtime.SandboxSpec
		rights  runtime.Security
		must    []string
	}{
		{rights: runtime.Security{}, must: must},
		{rights: all, must: rich, sandbox: runtime.SandboxSpec{Sysctls: map[string]string{"net.ipv4.tcp_syncookies": "0", "net.ipv4.ip_local_port_range": "20000 20100"}}},
	} {
		sb := r.sandbox(l.sandbox)
		s := r.spec(sb, "litter", echo)
		s.Security = l.rights
		x, out := r.run(s)
		f, err := parse(out)
		if err != nil || x.ExitCode != 0 {
			r.t.Fatalf("%+v, %v", x, err)
		}
		for _, k := range l.must {
			if v := f["litter."+k]; v != "ok" {
				r.t.Errorf("%s: %q, so this says nothing", k, v)
			}
		}
		if v := f["litter.metrics"]; v != remembersNone {
			r.t.Errorf("of connections the kernel remembers %q, want %q", v, remembersNone)
		}
		if err := r.Runtime.RemoveSandbox(r.t.Context(), sb.ID); err != nil {
			r.t.Fatal(err)
		}
	}
	for n := range 3 {
		o, c := r.after(r.sandbox(runtime.SandboxSpec{}))
		r.t.Run(fmt.Sprint(n), func(t *testing.T) {
			expectation{t: t, f: o.inside, o: o, c: c, host: r.host}.all()
		})
	}
}

// after looks for what another pod has left in a sandbox.
func (r *rig) after(sb runtime.Sandbox) (observed, aCase) {
	r.t.Helper()
	c := aCase{name: "after another pod", areas: []string{"process", "network", "sysctls", "ipc"}, want: wanted{uid: "1000", gid: "2000", groups: "3000"}}
	return r.observeIn(sb, c), c
}

// Recycled is for a runtime that uses a sandbox's parts again: one is littered
// by a container without rights, again makes it as good as new, and what the
// next container finds there is compared with namespaces that nobody has used.
func Recycled(t *testing.T, n Node, again func(runtime.Sandbox) runtime.Sandbox) {
	r := newRig(t, n)
	sb := r.sandbox(runtime.SandboxSpec{})
	s := r.spec(sb, "litter", net.JoinHostPort(r.Gateway.String(), r.echo()))
	c := r.start(s)
	f := r.facts(s.LogPath)
	for _, k := range []string{"listen", "abstract", "connections"} {
		if f["litter."+k] != "ok" {
			t.Errorf("%s: %q, so this says nothing", k, f["litter."+k])
		}
	}
	if err := r.Runtime.RemoveContainer(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	o, ca := r.after(again(sb))
	if o.inside["ns.net cookie"] != f["litter.netns"] {
		t.Errorf("the network namespace is not the littered one, so this says nothing")
	}
	expectation{t: t, f: o.inside, o: o, c: ca, host: r.host}.all()
}

// echo is a port of the host, one of the two that a confined pod reaches there,
// that accepts connections and closes them, for as
// long as the test runs.
func (r *rig) echo() string {
	r.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(r.t.Context(), "tcp4", net.JoinHostPort(r.Gateway.String(), "8080"))
	if err != nil {
		r.t.Fatal(err)
	}
	var wg sync.WaitGroup
	var open []net.Conn
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open = append(open, c)
			wg.Go(func() {
				_, _ = io.Copy(c, io.LimitReader(c, 1<<20))
				c.Close()
			})
		}
	}()
	r.t.Cleanup(func() { // a pod that is gone may not have said so
		l.Close()
		<-accepted
		for _, c := range open {
			c.Close()
		}
		wg.Wait()
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// ownGroups: two containers at once are in different groups, neither within
// the other's.
func ownGroups(r *rig) {
	var paths []string
	for range 2 {
		s := r.spec(r.sandbox(runtime.SandboxSpec{}), "hold")
		c := r.start(s)
		r.facts(s.LogPath)
		for controller, g := range groupsOf(r.t, c.Pid) {
			if own := groupsOf(r.t, os.Getpid())[controller]; strings.HasPrefix(own+"/", g+"/") {
				r.t.Errorf("the container's group of %q is %q and this process is in it", controller, g)
			}
			if !slices.Contains(paths, g) {
				paths = append(paths, g)
			}
		}
	}
	if len(paths) != 2 || strings.HasPrefix(paths[0]+"/", paths[1]+"/") || strings.HasPrefix(paths[1]+"/", paths[0]+"/") {
		r.t.Errorf("two containers are in the groups %q", paths)
	}
}

// pauseProcess: who holds the namespaces is confined too.
func pauseProcess(r *rig) {
	sb := r.sandbox(runtime.SandboxSpec{})
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", sb.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	got := Facts{}
	for l := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(l, ":")
		got[k] = strings.Join(strings.Fields(v), " ")
	}
	none := "0000000000000000"
	got.want(r.t, map[string]string{
		"Uid": "65535 65535 65535 65535", "Gid": "65535 65535 65535 65535", "Groups": "", "NoNewPrivs": "1", "Seccomp": "2",
		"CapEff": none, "CapPrm": none, "CapBnd": none, "CapInh": none, "CapAmb": none,
	})
	for controller, g := range groupsOf(r.t, sb.Pid) {
		if !strings.Contains(g, string(sb.UID)) {
			r.t.Errorf("its cgroup of %q is %q", controller, g)
		}
	}
}
