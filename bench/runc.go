package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/podsnap/podsnap/test/platform"
	corev1 "k8s.io/api/core/v1"
)

// The baseline's address, in a network namespace that is made for it.
const (
	runcNetns = "podsnap-bench"
	runcHost  = "169.254.77.1"
	runcIP    = "169.254.77.2"
)

// image is the measured function's image, unpacked for runc.
type image struct {
	bundle string
	n      int
}

// newImage takes the function's image out of the platform's registry and makes
// a bundle of it, with a network namespace that stands ready (which favours
// the baseline).
func newImage(b *bench, p *platform.Platform, dir string) *image {
	f, err := p.Client.Function(b.Context(), "", function, false)
	b.must(err)
	ref, err := name.ParseReference(strings.TrimPrefix(p.URL, "http://")+"/"+f.Image, name.Insecure)
	b.must(err)
	img, err := remote.Image(ref, remote.WithAuth(&authn.Basic{Username: "admin", Password: p.Password}))
	b.must(err)
	conf, err := img.ConfigFile()
	b.must(err)
	i := &image{bundle: filepath.Join(dir, "bundle")}
	b.must(unpack(img, filepath.Join(i.bundle, "rootfs")))
	b.must(writeSpec(filepath.Join(i.bundle, "config.json"), conf))
	steps := [][]string{
		{"netns", "add", runcNetns},
		{"link", "add", "psbench0", "type", "veth", "peer", "name", "eth0", "netns", runcNetns},
		{"addr", "add", runcHost + "/30", "dev", "psbench0"},
		{"link", "set", "psbench0", "up"},
		{"-n", runcNetns, "addr", "add", runcIP + "/30", "dev", "eth0"},
		{"-n", runcNetns, "link", "set", "eth0", "up"},
		{"-n", runcNetns, "link", "set", "lo", "up"},
	}
	b.Cleanup(func() { _ = exec.Command("ip", "netns", "del", runcNetns).Run() }) //nolint:noctx // answers at once
	for _, s := range steps {
		if out, err := exec.Command("ip", s...).CombinedOutput(); err != nil { //nolint:noctx // answers at once
			b.Fatalf("ip %s: %v %s", strings.Join(s, " "), err, out)
		}
	}
	return i
}

// run starts the image with `runc run` and measures until it has answered.
func (i *image) run(b *bench) time.Duration {
	i.n++
	id := fmt.Sprintf("podsnap-bench-%d", i.n)
	cmd := exec.Command("runc", "run", "--bundle", i.bundle, id) //nolint:noctx // ended below
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext}}
	start := time.Now()
	b.must(cmd.Start())
	for get(c, "http://"+runcIP+":8080/") != nil {
		if time.Since(start) > 20*time.Second {
			b.Fatal("the baseline did not answer")
		}
	}
	took := time.Since(start)
	if out, err := exec.Command("runc", "kill", id, "KILL").CombinedOutput(); err != nil { //nolint:noctx // answers at once
		b.Fatalf("runc kill: %v %s", err, out)
	}
	_ = cmd.Wait()                                          // it was killed
	_ = exec.Command("runc", "delete", "--force", id).Run() //nolint:noctx // answers at once
	return took
}

func writeSpec(path string, conf *v1.ConfigFile) error {
	s := specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: append(conf.Config.Entrypoint, conf.Config.Cmd...), Env: conf.Config.Env, Cwd: "/",
			User: specs.User{UID: 65532, GID: 65532}, NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: "/run/netns/" + runcNetns},
			},
			CgroupsPath: "/podsnap-bench",
		},
	}
	if conf.Config.WorkingDir != "" {
		s.Process.Cwd = conf.Config.WorkingDir
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
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

// pods lists the measured function's pods.
func (b *bench) pods(p *platform.Platform) []corev1.Pod {
	var l corev1.PodList
	b.must(p.Get("/api/v1/namespaces/openfaas-fn/pods?labelSelector=faas_function%3D"+function, &l))
	return l.Items
}
