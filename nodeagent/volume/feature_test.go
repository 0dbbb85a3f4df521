package volume

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

func hostPathVolume(path string, kind corev1.HostPathType) corev1.Volume {
	return corev1.Volume{Name: "h", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}}
}

// TestHostPath says what has to be there for each type, and what is made.
func TestHostPath(t *testing.T) {
	m, _ := manager(t, &objects{})
	defer m.Remove("u1")
	host := t.TempDir()
	file := filepath.Join(host, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(host, "socket")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		path  string
		kind  corev1.HostPathType
		fault string
	}{
		{host, corev1.HostPathUnset, ""},
		{file, corev1.HostPathUnset, ""},
		{host, corev1.HostPathDirectory, ""},
		{file, corev1.HostPathDirectory, "is no Directory"},
		{host + "/none", corev1.HostPathDirectory, "there is no"},
		{host + "/made", corev1.HostPathDirectoryOrCreate, ""},
		{file, corev1.HostPathFile, ""},
		{host, corev1.HostPathFile, "is no File"},
		{host + "/madefile", corev1.HostPathFileOrCreate, ""},
		{host + "/a/b", corev1.HostPathFileOrCreate, "no such file"},
		{socket, corev1.HostPathSocket, ""},
		{file, corev1.HostPathSocket, "is no Socket"},
		{"/dev/null", corev1.HostPathCharDev, ""},
		{"/dev/null", corev1.HostPathBlockDev, "is no BlockDevice"},
	} {
		p := podWith(hostPathVolume(c.path, c.kind))
		err := m.Setup(t.Context(), p)
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s as %q: %v, want %q", c.path, c.kind, err, c.fault)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s as %q: %v", c.path, c.kind, err)
			continue
		}
		container := &p.Spec.Containers[0]
		container.VolumeMounts = []corev1.VolumeMount{{Name: "h", MountPath: "/h", MountPropagation: new(corev1.MountPropagationHostToContainer)}}
		mounts, err := m.Mounts(p, container, nil, "")
		if err != nil || mounts[0].Source != c.path || mounts[0].ReadOnly || mounts[0].Propagation != "rslave" {
			t.Errorf("%s as %q: mounted %+v, %v", c.path, c.kind, mounts, err)
		}
	}
	// The pod's end leaves the machine's files alone.
	if err := m.Remove("u1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("what is the machine's is gone: %v", err)
	}
}

func TestSubPathExpr(t *testing.T) {
	m, root := manager(t, &objects{})
	defer m.Remove("u1")
	p := podWith(corev1.Volume{Name: "d", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	if err := m.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	c := &p.Spec.Containers[0]
	c.Env = []corev1.EnvVar{{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	env, err := m.Env(t.Context(), p, c, Addresses{})
	if err != nil {
		t.Fatal(err)
	}
	for expr, want := range map[string]string{"logs/$(POD)": root + "/u1/volumes/d/logs/p", "$(NONE)": "", "../$(POD)": "", "/$(POD)": ""} {
		c.VolumeMounts = []corev1.VolumeMount{{Name: "d", MountPath: "/d", SubPathExpr: expr}}
		mounts, err := m.Mounts(p, c, env, "")
		if want == "" && err == nil || want != "" && (err != nil || mounts[0].Source != want) {
			t.Errorf("%s: %+v, %v, want %q", expr, mounts, err, want)
		}
	}
	// Whoever may write to the volume may write there.
	for _, made := range []string{"logs", "logs/p"} {
		if st, err := os.Stat(filepath.Join(root, "u1/volumes/d", made)); err != nil || st.Mode().Perm() != 0o777 {
			t.Errorf("%s: %v, %v", made, st, err)
		}
	}
}

func TestHostnameAsFQDN(t *testing.T) {
	m, root := manager(t, &objects{})
	defer m.Remove("u1")
	p := podWith()
	p.Spec.SetHostnameAsFQDN = new(true)
	for _, c := range []struct{ hostname, subdomain, want string }{
		{"", "", "p"},
		{"", "sub", "p.sub.ns.svc.cluster.local"},
		{"h", "sub", "h.sub.ns.svc.cluster.local"},
		{strings.Repeat("h", 60), "sub", ""},
	} {
		p.Spec.Hostname, p.Spec.Subdomain = c.hostname, c.subdomain
		got, err := m.Hostname(p)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
		if err != nil {
			continue
		}
		if err := m.Files(p, []string{"10.0.0.1"}, ""); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(root + "/u1/etc/hostname"); err != nil || string(b) != c.want+"\n" {
			t.Errorf("%+v: /etc/hostname is %q, %v", c, b, err)
		}
	}
}

// services are those of a namespace.
type services struct {
	all  []api.Object
	down bool
}

func (s *services) List(_ context.Context, _ *api.Resource, o api.ListOptions) (api.List, error) {
	if s.down {
		return api.List{}, apierrors.NewServiceUnavailable("down")
	}
	var out api.List
	for _, obj := range s.all {
		if obj.GetNamespace() == o.Namespace {
			out.Items = append(out.Items, obj)
		}
	}
	return out, nil
}

func TestServiceLinks(t *testing.T) {
	m, _ := manager(t, &objects{})
	of := func(ns, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	s := &services{all: []api.Object{
		of("ns", "my-db", "10.96.0.7", corev1.ServicePort{Name: "sql-in", Port: 5432, Protocol: corev1.ProtocolTCP}, corev1.ServicePort{Name: "stats", Port: 9, Protocol: corev1.ProtocolUDP}),
		of("ns", "headless", corev1.ClusterIPNone, corev1.ServicePort{Port: 1}),
		of("elsewhere", "other", "10.96.0.8", corev1.ServicePort{Port: 1}),
	}}
	m.c.Services = s
	p := podWith()
	env := func() []string {
		out, err := m.Env(t.Context(), p, &p.Spec.Containers[0], Addresses{})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := []string{
		"MY_DB_SERVICE_HOST=10.96.0.7", "MY_DB_SERVICE_PORT=5432", "MY_DB_SERVICE_PORT_SQL_IN=5432", "MY_DB_SERVICE_PORT_STATS=9",
		"MY_DB_PORT=tcp://10.96.0.7:5432", "MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432", "MY_DB_PORT_5432_TCP_PROTO=tcp", "MY_DB_PORT_5432_TCP_PORT=5432", "MY_DB_PORT_5432_TCP_ADDR=10.96.0.7",
		"MY_DB_PORT_9_UDP=udp://10.96.0.7:9", "MY_DB_PORT_9_UDP_PROTO=udp", "MY_DB_PORT_9_UDP_PORT=9", "MY_DB_PORT_9_UDP_ADDR=10.96.0.7",
	}
	if got := env(); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	s.down = true
	if got := env(); !slices.Equal(got, want) {
		t.Errorf("while nobody answers: %q", got)
	}
	for name, change := range map[string]func(){
		"not wanted": func() { p.Spec.EnableServiceLinks = new(false) },
		"a function": func() { p.Spec.EnableServiceLinks = nil; p.Labels[api.LabelFunction] = "f" },
		"a static pod": func() {
			delete(p.Labels, api.LabelFunction)
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "h"}
		},
	} {
		q := p.DeepCopy()
		change()
		if got := env(); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
		p = q
	}
	p.UID = "u2"
	if _, err := m.Env(t.Context(), p, &p.Spec.Containers[0], Addresses{}); err == nil {
		t.Error("a pod that was told nothing yet starts without")
	}
}

func TestLimitsThatAreNotSet(t *testing.T) {
	m, _ := manager(t, &objects{})
	m.c.Allocatable = func() corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1900m"), corev1.ResourceMemory: resource.MustParse("3Gi")}
	}
	p := podWith()
	p.Spec.InitContainers = []corev1.Container{{Name: "first", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}}}}
	for _, c := range []struct{ container, name, want string }{
		{"", "limits.cpu", "2"}, {"", "limits.memory", "3221225472"}, {"", "requests.cpu", "0"}, {"first", "limits.cpu", "3"},
	} {
		got, err := m.resourceField(p, &p.Spec.Containers[0], &corev1.ResourceFieldSelector{ContainerName: c.container, Resource: c.name})
		if err != nil || got != c.want {
			t.Errorf("%s of %q: %q, %v, want %s", c.name, c.container, got, err, c.want)
		}
	}
}
