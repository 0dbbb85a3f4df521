package spec

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

func TestArguments(t *testing.T) {
	img := runtime.ImageConfig{Entrypoint: []string{"e"}, Cmd: []string{"c"}}
	for _, c := range []struct {
		img           runtime.ImageConfig
		command, args []string
		want          string
	}{ // the table of Kubernetes' documentation
		{img, nil, nil, "e c"},
		{img, []string{"x"}, nil, "x"},
		{img, nil, []string{"y"}, "e y"},
		{img, []string{"x"}, []string{"y"}, "x y"},
		{runtime.ImageConfig{Cmd: []string{"c"}}, nil, nil, "c"},
		{runtime.ImageConfig{}, nil, []string{"y"}, "y"},
	} {
		got, err := arguments(c.img, c.command, c.args)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%+v: got %q, %v", c, got, err)
		}
	}
	if _, err := arguments(runtime.ImageConfig{}, nil, nil); err == nil {
		t.Error("got no error for nothing to run")
	}
}

func TestEnvironment(t *testing.T) {
	got := environment("h", "/root", []string{"A=1", "PATH=/img", "bad", "=x"}, []string{"B=2", "A=3", "HOSTNAME=own"})
	want := []string{"PATH=/img", "HOSTNAME=own", "A=3", "B=2", "HOME=/root"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestWorkingDir(t *testing.T) {
	for _, c := range []struct{ container, image, want string }{
		{"", "", "/"},
		{"", "/a/", "/a"},
		{"/b", "/a", "/b"},
		{"", "/a/../b", "/b"},
		{"relative", "", ""},
		{"", "/proc/self/fd/7", ""},
		{"", "/a/../proc", ""},
		{"/sys/x", "", ""},
		{"", "/process", "/process"},
	} {
		got, err := workingDir(c.container, c.image)
		if got != c.want || (err == nil) == (c.want == "") {
			t.Errorf("%+v: got %q, %v", c, got, err)
		}
	}
}

func TestUserOf(t *testing.T) {
	a := Accounts{Passwd: []byte("root:x:0:0::/:\napp:x:1000:2000::/:\n"), Group: []byte("app:x:2000:\nextra:x:3000:app\n")}
	id := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		s     runtime.Security
		image string
		want  specs.User
		err   string
	}{
		{image: "", want: specs.User{}},
		{image: "app", want: specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{3000}}},
		{image: "app:extra", want: specs.User{UID: 1000, GID: 3000}},
		{image: "65532:65532", want: specs.User{UID: 65532, GID: 65532}},
		{image: "app", s: runtime.Security{User: id(5), Group: id(6), Supplemental: []int64{9, 8, 9}}, want: specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{8, 9}}},
		{image: "app", s: runtime.Security{Group: id(6)}, want: specs.User{UID: 1000, GID: 6}},
		{image: "nobody", err: `user "nobody"`},
		{image: "4294967296", err: "range"},
		{image: "-1", err: "range"},
		{image: "1:4294967295", err: "range"},
		{s: runtime.Security{User: id(-1)}, err: "range"},
		{image: "app", s: runtime.Security{OwnGroups: true, Supplemental: []int64{8}}, want: specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{8}}},
		{s: runtime.Security{Supplemental: []int64{1 << 31}}, err: "not between"},
		{s: runtime.Security{RunAsNonRoot: true}, err: "must not run as root"},
		{image: "app", s: runtime.Security{RunAsNonRoot: true}, want: specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{3000}}},
	} {
		got, _, err := userOf(c.s, c.image, a)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: got %v, want %q", c, err, c.err)
			}
			continue
		}
		if d := cmp.Diff(c.want, got); err != nil || d != "" {
			t.Errorf("%+v: %v %s", c, err, d)
		}
	}
}

func TestCapabilities(t *testing.T) {
	have := append(usualCapabilities(), "CAP_SYS_ADMIN")
	for _, c := range []struct {
		s    runtime.Security
		want []string
	}{
		{runtime.Security{}, nil},
		{runtime.Security{AddCapabilities: []string{"net_bind_service", "CAP_CHOWN", "SYS_TIME", "NOPE"}}, []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}},
		{runtime.Security{DefaultCapabilities: true}, usualCapabilities()},
		{runtime.Security{DefaultCapabilities: true, DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"KILL"}}, []string{"CAP_KILL"}},
		{runtime.Security{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"SYS_ADMIN"}}, usualCapabilities()},
		{runtime.Security{Privileged: true}, have},
	} {
		if d := cmp.Diff(sorted(c.want), capabilities(c.s, have)); d != "" {
			t.Errorf("%+v: %s", c.s, d)
		}
	}
}

func TestMountOrder(t *testing.T) {
	got, err := containerMounts(Input{Shm: "/s", Files: "/f", Spec: runtime.ContainerSpec{Mounts: []runtime.Mount{
		{Source: "/1", Target: "/a/b/c"}, {Source: "/2", Target: "/a"}, {Source: "/3", Target: "/dev/shm/"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, m := range got {
		if _, twice := at[m.Destination]; twice {
			t.Errorf("%s is mounted twice", m.Destination)
		}
		at[m.Destination] = i
	}
	if at["/a"] > at["/a/b/c"] || at["/dev"] > at["/dev/shm"] || at["/sys"] > at["/sys/fs/cgroup"] {
		t.Errorf("a mount hides one below it: %v", at)
	}
	if got[at["/dev/shm"]].Source != "/3" {
		t.Error("a volume must replace a mount of ours")
	}
	if _, err := containerMounts(Input{Spec: runtime.ContainerSpec{Mounts: []runtime.Mount{{Source: "x", Target: "/a"}}}}); err == nil {
		t.Error("a relative source: got no error")
	}
}

func TestResources(t *testing.T) {
	r := runtime.Resources{CPUQuota: 10, Memory: 4096}
	v1, v2 := resources(r, true, false), resources(r, false, true)
	if v1.Unified != nil || *v1.Memory.Swap != 4096 || *v1.CPU.Quota != 1000 || *v1.CPU.Shares != 2 {
		t.Errorf("version 1: got %+v", v1)
	}
	if v2.Unified["memory.oom.group"] != "1" || v2.Memory.Swap != nil {
		t.Errorf("version 2: got %+v", v2)
	}
}

// TestHostIPC: a pod with the host's IPC has its shared memory too.
func TestHostIPC(t *testing.T) {
	for _, host := range []bool{false, true} {
		in := Input{Shm: "/s", Files: "/f", PausePid: 7, Pod: runtime.SandboxSpec{HostIPC: host}}
		own := slices.ContainsFunc(containerNamespaces(in), func(n specs.LinuxNamespace) bool { return n.Type == specs.IPCNamespace })
		mounts, err := containerMounts(in)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
		if want := map[bool]string{false: "/s", true: "/dev/shm"}[host]; own == host || mounts[i].Source != want {
			t.Errorf("hostIPC %v: an IPC namespace of its own %v, /dev/shm from %s", host, own, mounts[i].Source)
		}
	}
}
