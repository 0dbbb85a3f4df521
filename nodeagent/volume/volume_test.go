package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// objects are Secrets and ConfigMaps by "plural/name"; down makes them unreachable.
type objects struct {
	all  map[string]api.Object
	down bool
}

func (o *objects) Get(_ context.Context, r *api.Resource, _, name string) (api.Object, error) {
	if o.down {
		return nil, apierrors.NewServiceUnavailable("down")
	}
	if obj, ok := o.all[r.Plural+"/"+name]; ok {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(r.GR(), name)
}

func secretOf(kv ...string) *corev1.Secret {
	s := &corev1.Secret{Data: map[string][]byte{}}
	for i := 0; i < len(kv); i += 2 {
		s.Data[kv[i]] = []byte(kv[i+1])
	}
	return s
}

func manager(t *testing.T, o *objects) (*Manager, string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "pods")
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("# c\nnameserver 192.0.2.53\nsearch example.org\noptions ndots:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{Root: root, Objects: o, ResolvConf: conf, OnDisk: os.Getuid() != 0})
	if err != nil {
		t.Fatal(err)
	}
	return m, root
}

func podWith(volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1", Labels: map[string]string{"app": "x"}},
		Spec:       corev1.PodSpec{Volumes: volumes, NodeName: "n1", Containers: []corev1.Container{{Name: "main"}}},
	}
}

func secretVolume(name, secret string, items ...corev1.KeyToPath) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret, Items: items}}}
}

// tree reads a volume as its users see it: path, mode and content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(rel string)
	walk = func(rel string) {
		full := filepath.Join(dir, rel)
		fi, err := os.Stat(full)
		if err != nil {
			t.Fatal(err)
		}
		if fi.IsDir() {
			sub, _ := os.ReadDir(full)
			for _, e := range sub {
				walk(filepath.Join(rel, e.Name()))
			}
			return
		}
		b, _ := os.ReadFile(full)
		out[rel] = fmt.Sprintf("%o %s", fi.Mode().Perm(), b)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") {
			walk(e.Name())
		}
	}
	return out
}

func TestSecret(t *testing.T) {
	o := &objects{all: map[string]api.Object{"secrets/s": secretOf("a", "1", "b", "2")}}
	m, root := manager(t, o)
	defer m.Remove("u1")
	mode := int32(0o400)
	p := podWith(
		secretVolume("all", "s"),
		secretVolume("some", "s", corev1.KeyToPath{Key: "b", Path: "deep/er/b", Mode: &mode}),
	)
	if err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "u1", "secrets")
	if os.Getuid() == 0 {
		if mounted, err := isMount(dir); !mounted || err != nil {
			t.Errorf("secrets are not in memory: %v %v", mounted, err)
		}
	}
	if diff := cmp.Diff(map[string]string{"a": "644 1", "b": "644 2"}, tree(t, filepath.Join(dir, "all"))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"deep/er/b": "400 2"}, tree(t, filepath.Join(dir, "some"))); diff != "" {
		t.Error(diff)
	}
	// The same again changes nothing, not even the version.
	was, _ := os.Readlink(filepath.Join(dir, "all", dataLink))
	if err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if now, _ := os.Readlink(filepath.Join(dir, "all", dataLink)); now != was {
		t.Errorf("version %s became %s", was, now)
	}
	// A new version replaces all of the old one.
	o.all["secrets/s"] = secretOf("b", "3", "c", "4")
	if err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"b": "644 3", "c": "644 4"}, tree(t, filepath.Join(dir, "all"))); diff != "" {
		t.Error(diff)
	}
	entries, _ := os.ReadDir(filepath.Join(dir, "all"))
	if len(entries) != 4 { // b, c, ..data and the version
		t.Errorf("entries %v", entries)
	}
	// An outage leaves what is there.
	o.down = true
	if err := m.Setup(t.Context(), p); err != nil {
		t.Errorf("during an outage: %v", err)
	}
}

// TestOneVersion reads while versions change: both files are always of one.
func TestOneVersion(t *testing.T) {
	dir := t.TempDir()
	set := func(i int) {
		v := []byte(fmt.Sprint(i))
		if err := replace(dir, map[string]file{"a": {v, 0o644}, "b": {v, 0o644}}, nil); err != nil {
			t.Error(err)
		}
	}
	set(0)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			d, err := os.OpenRoot(filepath.Join(dir, dataLink)) // one version, as a reader that wants both pins it
			if err != nil {
				continue // it was swept between the link and the folder
			}
			a, errA := d.ReadFile("a")
			b, errB := d.ReadFile("b")
			d.Close()
			if errA == nil && errB == nil && string(a) != string(b) {
				t.Errorf("a mix: %s and %s", a, b)
			}
		}
	})
	for i := range 200 {
		set(i)
		// The link is there at any moment, with one whole version behind it.
		if _, err := os.ReadFile(filepath.Join(dir, "a")); err != nil {
			t.Errorf("read: %v", err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestFaultsNameTheObject(t *testing.T) {
	optional := true
	o := &objects{all: map[string]api.Object{"secrets/s": secretOf("a", "1"), "secrets/evil": secretOf("../../x", "1"), "secrets/dots": secretOf("..data", "1")}}
	for _, c := range []struct {
		name   string
		volume corev1.Volume
		want   string
		config bool
	}{
		{"missing", secretVolume("v", "none"), `volume "v": secret "none" not found in namespace "ns"`, true},
		{"missing key", secretVolume("v", "s", corev1.KeyToPath{Key: "z", Path: "z"}), `volume "v": secret "s" has no key "z"`, true},
		{"path out", secretVolume("v", "s", corev1.KeyToPath{Key: "a", Path: "../a"}), `volume "v": the path "../a" leaves the volume`, true},
		{"path absolute", secretVolume("v", "s", corev1.KeyToPath{Key: "a", Path: "/etc/a"}), `volume "v": the path "/etc/a" leaves the volume`, true},
		{"key out", secretVolume("v", "evil"), `volume "v": the path "../../x" leaves the volume`, true},
		{"key like a version", secretVolume("v", "dots"), `volume "v": the path "..data" leaves the volume`, true},
		{"name out", secretVolume("../v", "s"), `volume "../v": the name is not one of a folder`, true},
		{"kind", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}}, "not supported", true},
		{"optional", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "none", Optional: &optional}}}, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, _ := manager(t, o)
			defer m.Remove("u1")
			err := m.Setup(t.Context(), podWith(c.volume))
			got := ""
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, c.want) || c.want == "" && err != nil {
				t.Errorf("got %q, want %q", got, c.want)
			}
			var ce *ConfigError
			if errors.As(err, &ce) != c.config {
				t.Errorf("is a config error: %v", !c.config)
			}
		})
	}
	m, _ := manager(t, o)
	for _, uid := range []types.UID{"", "..", "a/b", "/etc", "../../etc", "."} {
		p := podWith()
		p.UID = uid
		if err := m.Setup(t.Context(), p); err == nil {
			t.Errorf("UID %q is taken", uid)
		}
		if err := m.Remove(uid); err == nil {
			t.Errorf("UID %q is removed", uid)
		}
	}
}

func TestProjectedAndDownward(t *testing.T) {
	o := &objects{all: map[string]api.Object{
		"secrets/s":    secretOf("a", "1"),
		"configmaps/c": &corev1.ConfigMap{Data: map[string]string{"k": "v"}, BinaryData: map[string][]byte{"raw": {7}}},
	}}
	m, root := manager(t, o)
	defer m.Remove("u1")
	down := []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}
	p := podWith(
		corev1.Volume{Name: "c", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}},
		corev1.Volume{Name: "p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}, Items: []corev1.KeyToPath{{Key: "k", Path: "sub/k"}}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: down}},
		}}}},
	)
	if err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"k": "644 v", "raw": "644 \a"}, tree(t, filepath.Join(root, "u1/volumes/c"))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"a": "644 1", "sub/k": "644 v", "labels": "644 app=\"x\"\n"}, tree(t, filepath.Join(root, "u1/secrets/p"))); diff != "" {
		t.Error(diff)
	}
}

func TestEmptyDirAndTeardown(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting memory needs root")
	}
	m, root := manager(t, &objects{})
	size := resource.MustParse("64Ki")
	p := podWith(
		corev1.Volume{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "ram", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}}},
	)
	defer m.Remove(p.UID)
	for range 2 { // the second time is an agent that has started anew
		if err := m.Setup(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	ram, disk := filepath.Join(root, "u1/volumes/ram"), filepath.Join(root, "u1/volumes/disk")
	for _, d := range []string{ram, disk} {
		if fi, err := os.Stat(d); err != nil || fi.Mode().Perm() != 0o777 {
			t.Errorf("%s: %v %v", d, fi.Mode(), err)
		}
		if err := os.WriteFile(filepath.Join(d, "f"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(ram, "big"), make([]byte, 128<<10), 0o600); err == nil {
		t.Error("the size limit does not hold")
	}
	if mounts := mountsBelow(t, root); len(mounts) != 1 {
		t.Errorf("mounts %v", mounts)
	}
	// Released: what is in memory is gone, what is on disk stays.
	if err := m.Release(p.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(disk, "f")); err != nil {
		t.Errorf("disk after release: %v", err)
	}
	if _, err := os.Stat(filepath.Join(ram, "f")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("memory after release: %v", err)
	}
	if err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Remove(p.UID); err != nil {
			t.Fatal(err)
		}
	}
	if mounts := mountsBelow(t, root); len(mounts) != 0 {
		t.Errorf("mounts %v", mounts)
	}
	if uids, err := m.List(); len(uids) != 0 || err != nil {
		t.Errorf("list %v %v", uids, err)
	}
}

func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir) {
			out = append(out, f[4])
		}
	}
	return out
}

func TestMounts(t *testing.T) {
	o := &objects{all: map[string]api.Object{"secrets/s": secretOf("a", "1")}}
	m, root := manager(t, o)
	defer m.Remove("u1")
	p := podWith(
		corev1.Volume{Name: "d", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		secretVolume("s", "s"),
	)
	p.Labels[api.LabelFunction] = "f"
	if err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	c := &p.Spec.Containers[0]
	c.Env = []corev1.EnvVar{{Name: "WHO", Value: "me"}}
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "d", MountPath: "/data/"},
		{Name: "d", MountPath: "/sub", SubPathExpr: "x/$(WHO)"},
		{Name: "s", MountPath: "/etc/hosts", SubPath: "a"},
		{Name: "s", MountPath: "/s"},
	}
	got, err := m.Mounts(p, c, []string{"WHO=me"}, "")
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(root, "u1")
	version, _ := os.Readlink(filepath.Join(base, "secrets/s", dataLink))
	want := []runtime.Mount{
		{Source: base + "/volumes/d", Target: "/data"},
		{Source: base + "/volumes/d/x/me", Target: "/sub"},
		{Source: base + "/secrets/s/" + version + "/a", Target: "/etc/hosts", ReadOnly: true},
		{Source: base + "/secrets/s", Target: "/s", ReadOnly: true},
		{Source: base + "/etc/hostname", Target: "/etc/hostname", ReadOnly: true},
		{Source: base + "/etc/resolv.conf", Target: "/etc/resolv.conf", ReadOnly: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// A container has laid a link that leads out, and asks for it.
	if err := os.Symlink("/etc", base+"/volumes/d/out"); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"out", "out/passwd", "../../etc", "/etc"} {
		c.VolumeMounts = []corev1.VolumeMount{{Name: "d", MountPath: "/data", SubPath: sub}}
		if got, err := m.Mounts(p, c, nil, ""); err == nil {
			t.Errorf("subPath %q leads to %v", sub, got[0])
		}
	}
}

func TestFiles(t *testing.T) {
	m, root := manager(t, &objects{})
	p := podWith()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, "u1/etc", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	p.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.1", Hostnames: []string{"x", "y"}}}
	if err := m.Files(p, []string{"10.1.2.3", "fd62::3"}, ""); err != nil {
		t.Fatal(err)
	}
	if got := read("hosts"); !strings.Contains(got, "10.1.2.3\tp\nfd62::3\tp\n") || !strings.Contains(got, "192.0.2.1\tx\ty\n") {
		t.Errorf("hosts %q", got)
	}
	if got, want := read("resolv.conf"), "nameserver 192.0.2.53\nsearch example.org\noptions ndots:1\n"; got != want {
		t.Errorf("resolv.conf %q", got)
	}
	if got := read("hostname"); got != "p\n" {
		t.Errorf("hostname %q", got)
	}
	two := "2"
	p.Spec.DNSPolicy = corev1.DNSNone
	p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}
	if err := m.Files(p, []string{"10.1.2.3", "fd62::3"}, ""); err != nil {
		t.Fatal(err)
	}
	if got, want := read("resolv.conf"), "nameserver 1.1.1.1\noptions ndots:2\n"; got != want {
		t.Errorf("resolv.conf %q", got)
	}
}

// With a server for the cluster's names, pods that want them are told of it.
func TestClusterDNS(t *testing.T) {
	m, _ := manager(t, &objects{})
	m.c.ClusterDNS = netip.MustParseAddr("169.254.20.53")
	const (
		cluster = "nameserver 169.254.20.53\nsearch ns.svc.cluster.local svc.cluster.local cluster.local example.org\n"
		machine = "nameserver 192.0.2.53\nsearch example.org\noptions ndots:1\n"
	)
	own := &corev1.PodDNSConfig{
		Nameservers: []string{"192.0.2.1"}, Searches: []string{"a.test", "example.org"},
		Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("2")}, {Name: "edns0"}},
	}
	for _, c := range []struct {
		policy      corev1.DNSPolicy
		hostNetwork bool
		config      *corev1.PodDNSConfig
		want        string
	}{
		{"", false, nil, cluster + "options ndots:5\n"},
		{corev1.DNSClusterFirst, false, nil, cluster + "options ndots:5\n"},
		{corev1.DNSClusterFirst, true, nil, machine},
		{corev1.DNSClusterFirstWithHostNet, true, nil, cluster + "options ndots:5\n"},
		{corev1.DNSDefault, false, nil, machine},
		{corev1.DNSNone, false, own, "nameserver 192.0.2.1\nsearch a.test example.org\noptions ndots:2 edns0\n"},
		{corev1.DNSClusterFirst, false, own, "nameserver 169.254.20.53\nnameserver 192.0.2.1\nsearch ns.svc.cluster.local svc.cluster.local cluster.local example.org a.test\noptions ndots:2 edns0\n"},
	} {
		p := podWith()
		p.Spec.DNSPolicy, p.Spec.HostNetwork, p.Spec.DNSConfig = c.policy, c.hostNetwork, c.config
		got, err := m.resolvConf(p)
		if err != nil || got != c.want {
			t.Errorf("%q, host network %v: got %q, %v, want %q", c.policy, c.hostNetwork, got, err, c.want)
		}
	}
}

func TestEnv(t *testing.T) {
	optional := true
	o := &objects{all: map[string]api.Object{
		"secrets/s":    secretOf("KEY", "hush", "not a name", "x"),
		"configmaps/c": &corev1.ConfigMap{Data: map[string]string{"KEY": "cfg", "B": "2"}},
	}}
	m, _ := manager(t, o)
	p := podWith()
	local := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	ref := func(f func(*corev1.EnvVarSource)) *corev1.EnvVarSource { s := &corev1.EnvVarSource{}; f(s); return s }
	c := &corev1.Container{
		Name: "main",
		EnvFrom: []corev1.EnvFromSource{
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local("c")}},
			{Prefix: "S_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("s")}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("none"), Optional: &optional}},
		},
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse("64Mi"), "cpu": resource.MustParse("1500m")}},
		Env: []corev1.EnvVar{
			{Name: "B", Value: "over"},
			{Name: "SUM", Value: "$(B)-$(KEY)-$$(KEY)-$(NONE)-$"},
			{Name: "IP", ValueFrom: ref(func(s *corev1.EnvVarSource) { s.FieldRef = &corev1.ObjectFieldSelector{FieldPath: "status.podIP"} })},
			{Name: "IPS", ValueFrom: ref(func(s *corev1.EnvVarSource) { s.FieldRef = &corev1.ObjectFieldSelector{FieldPath: "status.podIPs"} })},
			{Name: "HOST", ValueFrom: ref(func(s *corev1.EnvVarSource) { s.FieldRef = &corev1.ObjectFieldSelector{FieldPath: "status.hostIPs"} })},
			{Name: "APP", ValueFrom: ref(func(s *corev1.EnvVarSource) {
				s.FieldRef = &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}
			})},
			{Name: "RAW", ValueFrom: ref(func(s *corev1.EnvVarSource) {
				s.SecretKeyRef = &corev1.SecretKeySelector{LocalObjectReference: local("s"), Key: "KEY"}
			})},
			{Name: "NOT", ValueFrom: ref(func(s *corev1.EnvVarSource) {
				s.SecretKeyRef = &corev1.SecretKeySelector{LocalObjectReference: local("s"), Key: "none", Optional: &optional}
			})},
			{Name: "MEM", ValueFrom: ref(func(s *corev1.EnvVarSource) {
				s.ResourceFieldRef = &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}
			})},
			{Name: "CPU", ValueFrom: ref(func(s *corev1.EnvVarSource) {
				s.ResourceFieldRef = &corev1.ResourceFieldSelector{Resource: "limits.cpu"}
			})},
		},
	}
	got, err := m.Env(t.Context(), p, c, Addresses{Pod: []string{"10.0.0.1", "fd62::1"}, Host: []string{"192.0.2.1"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"B=over", "KEY=cfg", "S_KEY=hush", "SUM=over-cfg-$(KEY)-$(NONE)-$", "IP=10.0.0.1", "IPS=10.0.0.1,fd62::1", "HOST=192.0.2.1", "APP=x", "RAW=hush", "MEM=64", "CPU=2"}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"run", "cfg x"}, Expand([]string{"run", "$(KEY) x"}, got)); diff != "" {
		t.Error(diff)
	}
	c.Env = []corev1.EnvVar{{Name: "X", ValueFrom: ref(func(s *corev1.EnvVarSource) {
		s.ConfigMapKeyRef = &corev1.ConfigMapKeySelector{LocalObjectReference: local("c"), Key: "zz"}
	})}}
	if _, err := m.Env(t.Context(), p, c, Addresses{}); err == nil || err.Error() != `environment variable X: configmap "c" has no key "zz"` {
		t.Errorf("missing key: %v", err)
	}
}
