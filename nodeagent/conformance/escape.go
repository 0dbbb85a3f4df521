package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// hostDir makes a directory on the host with a file in it that nobody may change.
func (r *rig) hostDir(name string) string {
	r.t.Helper()
	dir, err := os.MkdirTemp(r.Dir, name)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		r.t.Fatal(err)
	}
	return dir
}

// symlinks: an image whose mount targets are symbolic links to the host's
// files does not lead the runtime out of the root file system. It is refused,
// or what is mounted is mounted inside.
func symlinks(r *rig) {
	sb := r.sandbox(runtime.SandboxSpec{})
	source := r.hostDir("source")
	if err := os.WriteFile(filepath.Join(source, "from-volume"), []byte("volume\n"), 0o644); err != nil {
		r.t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		links  map[string]string // in the image: name → where it leads; HOST is a directory of the host
		target string            // of a volume
		refuse bool              // the runtime must not run it
		seen   bool              // or else the volume is there, inside
	}{
		{name: "proc", links: map[string]string{"proc": "HOST"}, refuse: true},
		{name: "sys", links: map[string]string{"sys": "HOST"}, refuse: true},
		{name: "dev", links: map[string]string{"dev": "HOST"}, refuse: true},
		{name: "proc-relative", links: map[string]string{"proc": "data"}, refuse: true},
		{name: "etc", links: map[string]string{"etc": "HOST"}},
		{name: "hosts", links: map[string]string{"etc/hosts": "HOST/hosts", "etc/hostname": "HOST/hostname", "etc/resolv.conf": "HOST/made"}},
		{name: "up", links: map[string]string{"etc/hosts": "../../../../../../../../../../HOST/hosts"}},
		{name: "volume", links: map[string]string{"v": "HOST"}, target: "/v", seen: true},
		{name: "volume-below", links: map[string]string{"v": "HOST"}, target: "/v/below/it", seen: true},
		{name: "volume-into-proc", links: map[string]string{"v": "/proc"}, target: "/v/sys"},
		{name: "volume-self-root", links: map[string]string{"v": "/proc/self/root/../../../HOST"}, target: "/v/x"},
		{name: "volume-fd", links: map[string]string{"v": "/proc/self/fd/5"}, target: "/v/x"},
		{name: "workdir", links: map[string]string{"work": "HOST"}},
	} {
		host := r.hostDir("victim")
		for _, f := range []string{"hosts", "hostname", "keep"} {
			if err := os.WriteFile(filepath.Join(host, f), []byte("the host's\n"), 0o666); err != nil {
				r.t.Fatal(err)
			}
		}
		img := r.plainImage()
		for _, d := range []string{"etc", "work"} {
			if _, linked := c.links[d]; !linked {
				img.folder(d)
			}
		}
		for name, to := range c.links {
			img.link(name, strings.Replace(to, "HOST", host, 1))
		}
		ref := "podsnap.test/link-" + c.name + ":1"
		r.load(ref, img)
		s := r.spec(sb, "try", "put:/etc/hosts", "put:/etc/resolv.conf", "create:/v/x", "create:/etc/x", "create:./x", "r:/proc/self/status", "w:/dev/null")
		s.Image, s.Name = ref, c.name
		if c.target != "" {
			s.Mounts = []runtime.Mount{{Source: source, Target: c.target, ReadOnly: true}}
			s.Args = append(s.Args, "list:"+c.target)
		}
		container, err := r.Runtime.StartContainer(r.t.Context(), s)
		if c.refuse && err == nil {
			r.t.Errorf("%s: the container was started", c.name)
		}
		if err == nil {
			f := r.facts(s.LogPath)
			if f["try.r./proc/self/status"] != "ok" || f["try.w./dev/null"] != "ok" {
				r.t.Errorf("%s: the container's own /proc and /dev are not in place: %v", c.name, f)
			}
			if c.target != "" && strings.Contains(c.name, "volume-into") {
				r.t.Errorf("%s: a volume was mounted over the kernel's files", c.name)
			}
			if c.seen && !strings.Contains(f["try.list."+c.target], "from-volume") {
				r.t.Errorf("%s: the volume is not where it should be: %v", c.name, f)
			}
			if err := r.Runtime.RemoveContainer(r.t.Context(), container.ID); err != nil {
				r.t.Fatal(err)
			}
		} else {
			r.t.Logf("%s: refused: %v", c.name, err)
		}
		r.unharmed(c.name, host)
	}
}

// unharmed complains of anything that has changed in a directory of the host.
func (r *rig) unharmed(name, dir string) {
	r.t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(entries) != 3 {
		r.t.Errorf("%s: something was made in the host's directory: %v", name, entries)
	}
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err != nil || string(b) != "the host's\n" {
			r.t.Errorf("%s: the host's file %s: %q, %v", name, e.Name(), b, err)
		}
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.t.Fatal(err)
	}
	if strings.Contains(string(b), dir) {
		r.t.Errorf("%s: something is mounted at %s on the host", name, dir)
	}
}

// workingDirectory: one that leads to a directory which the runtime has open
// does not put the process outside of the container.
func workingDirectory(r *rig) {
	sb := r.sandbox(runtime.SandboxSpec{})
	img := r.plainImage()
	for n := range 11 {
		img.link(fmt.Sprintf("work%d", n), fmt.Sprintf("/proc/self/fd/%d", n))
	}
	const ref = "podsnap.test/cwd:1"
	r.load(ref, img)
	for n := 3; n < 11; n++ {
		s := r.spec(sb, "hold", "process")
		s.Image, s.Name, s.WorkingDir = ref, fmt.Sprintf("cwd-%d", n), fmt.Sprintf("/work%d", n)
		c, err := r.Runtime.StartContainer(r.t.Context(), s)
		if err != nil {
			r.t.Logf("%d: refused: %v", n, err)
			continue
		}
		f := r.facts(s.LogPath)
		if got := f["cwd"]; !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "/proc") || strings.Contains(got, "unreachable") {
			r.t.Errorf("the working directory /proc/self/fd/%d led to %q", n, got)
		}
		if err := r.Runtime.RemoveContainer(r.t.Context(), c.ID); err != nil {
			r.t.Fatal(err)
		}
	}
}
