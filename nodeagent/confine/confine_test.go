package confine

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/opencontainers/runtime-spec/specs-go"

	noderuntime "github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

// input is a container like that of a function.
func input(t *testing.T, change func(*spec.Input)) Input {
	t.Helper()
	in := spec.Input{
		Shm: "/host/box", Files: "/host/box", Pod: noderuntime.SandboxSpec{Hostname: "pod"},
		Image:     noderuntime.ImageConfig{Entrypoint: []string{"/bin/serve"}, Env: []string{"A=b"}, WorkingDir: "/work"},
		Spec:      noderuntime.ContainerSpec{Security: noderuntime.Security{User: new(int64(1000))}},
		Privilege: spec.Privilege{OpenFiles: 4096, Caps: []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}},
	}
	if change != nil {
		change(&in)
	}
	made, err := spec.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	made.Hostname = "pod"
	made.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.PIDNamespace}}
	return Input{
		ID: "c1", Spec: made, Files: map[string]bool{"/host/box/hosts": true, "/host/box/hostname": true, "/host/box/resolv.conf": true},
		At:     "/box/root",
		Join:   []string{"/cg/memory/c1/tasks", "/cg/pids/c1/tasks"},
		Groups: []Mounted{{"memory", "/cg/memory/c1"}, {"pids", "/cg/pids/c1"}},
		Stdout: "/box/out", Stderr: "/box/err", Filter: []byte{6, 0, 0, 0, 0, 0, 0xff, 0x7f},
	}
}

func name(nr uint64) string { return arch.X86_64.SyscallNumbers[int(nr)] }

// only are the lines that say a word of the test's argument "only", if it has one.
func only(d *datadriven.TestData, text string) string {
	arg, ok := d.Arg("only")
	if !ok {
		return text
	}
	var out []string
	for l := range strings.Lines(text) {
		if slices.ContainsFunc(arg.Vals, func(w string) bool { return strings.Contains(l, w) }) {
			out = append(out, l)
		}
	}
	return strings.Join(out, "")
}

// TestPrograms writes whole programs out: what a container is confined by.
func TestPrograms(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the numbers are amd64's")
	}
	inputs := map[string]func(*spec.Input){
		"function": nil,
		"read-only, with volumes and a capability, in PATH": func(in *spec.Input) {
			in.Spec.Security.ReadOnlyRoot = true
			in.Spec.Security.AddCapabilities = []string{"NET_BIND_SERVICE"}
			in.Spec.Security.AllowEscalation = true
			in.Spec.Security.Supplemental = []int64{7}
			in.Spec.Command, in.Spec.Env = []string{"serve", "-v"}, []string{"PATH=/bin:/usr/bin"}
			in.Spec.Mounts = []noderuntime.Mount{{Source: "/host/data", Target: "/data", ReadOnly: true}, {Source: "/host/hosts", Target: "/etc/hosts"}}
		},
	}
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			change, ok := inputs[strings.TrimSpace(d.Input)]
			if !ok {
				t.Fatalf("no input %q", d.Input)
			}
			in := input(t, change)
			if d.HasArg("v2") { // control groups of version 2
				in.Join, in.Groups = nil, nil
				in.Spec.Linux.Namespaces = append(in.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
			}
			if d.Cmd == "enter" {
				p, second, err := Enter(in)
				if err != nil {
					return err.Error()
				}
				return fmt.Sprintf("two processes from call %d on\n%s", second, only(d, p.Text(name)))
			}
			p, err := Start(in)
			if err != nil {
				return err.Error()
			}
			return fmt.Sprintf("flags %#x\n%s", p.Flags, only(d, p.Text(name)))
		})
	})
}

func TestRefused(t *testing.T) {
	for want, change := range map[string]func(*Input){
		"not allowed there":    func(in *Input) { in.Spec.Mounts = append(in.Spec.Mounts, bind("/x", "/proc/keys")) },
		`mount "/y" at "/dev"`: func(in *Input) { in.Spec.Mounts = append(in.Spec.Mounts, bind("/y", "/dev")) },
		`option "rshared"`:     func(in *Input) { in.Spec.Mounts = append(in.Spec.Mounts, bind("/x", "/d", "rshared")) },
		"devices, terminals":   func(in *Input) { in.Spec.Process.Terminal = true },
		`namespace "user"`:     func(in *Input) { in.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace}} },
	} {
		in := input(t, nil)
		change(&in)
		if _, err := Start(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func bind(from, to string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: from, Destination: to, Options: append([]string{"rbind"}, options...)}
}

func many() (out []string) {
	for i := range 700 {
		out = append(out, fmt.Sprintf("/images/layers/%d/fs", i))
	}
	return out
}

func TestShorten(t *testing.T) {
	for _, c := range []struct {
		in   []string
		base string
		rest string
	}{
		{[]string{"/a/b/1/fs", "/a/b/2/fs"}, "/a/b", "1/fs 2/fs"},
		{[]string{"/a/b/1/fs"}, "/a/b/1", "fs"},
		{[]string{"/a/1", "/b/2"}, "/", "a/1 b/2"},
		{[]string{"/a/11/fs", "/a/1/fs"}, "/a", "11/fs 1/fs"},
	} {
		base, rest := shorten(c.in)
		if base != c.base || strings.Join(rest, " ") != c.rest {
			t.Errorf("%v: got %s and %v", c.in, base, rest)
		}
	}
}

// The layer of mount points is used when there is room for it, and all must be
// sound.
func TestOverlay(t *testing.T) {
	options := func(change func(*Root)) string {
		t.Helper()
		r := Root{Lower: []string{"/images/2/fs", "/images/1/fs"}, Upper: "/box/upper", Work: "/box/work"}
		change(&r)
		base, options, err := r.Overlay()
		if err != nil {
			return err.Error()
		}
		return base + " " + options
	}
	for _, c := range []struct {
		name   string
		change func(*Root)
		want   string
	}{
		{"plain", func(*Root) {}, "/images lowerdir=2/fs:1/fs,upperdir=/box/upper,workdir=/box/work,index=off,volatile"},
		{"below all", func(r *Root) { r.Below = "/box/below" }, "lowerdir=2/fs:1/fs:/box/below,upperdir"},
		{"no room below", func(r *Root) { r.Lower, r.Below = many()[:540], "/box/"+strings.Repeat("below", 100) }, "/fs,upperdir="},
		{"no layers", func(r *Root) { r.Lower = nil }, "no layers"},
		{"letters", func(r *Root) { r.Upper = "/a:b" }, "that overlay mounts do not take"},
		{"letters below", func(r *Root) { r.Below = "/box/a,b" }, "that overlay mounts do not take"},
		{"many", func(r *Root) { r.Lower = many() }, "too many layers: 700"},
	} {
		if got := options(c.change); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestMask(t *testing.T) {
	if got := mask([]string{"CAP_CHOWN", "CAP_KILL", "CAP_CHECKPOINT_RESTORE", "CAP_NO_SUCH"}); got != 1|1<<5|1<<40 {
		t.Errorf("got %#x", got)
	}
}
