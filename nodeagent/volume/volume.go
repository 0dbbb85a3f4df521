// Package volume makes what is mounted into the containers of a pod: emptyDir,
// secret, configMap, downwardAPI and projected volumes, those of claims, and the pod's own
// /etc/hosts, /etc/resolv.conf and /etc/hostname. It resolves the environment
// too, for that draws on the same objects.
//
// A pod's folder is <Root>/<uid>: etc, volumes/<name>, and secrets/<name>,
// which is in memory. A claim's is a link there, to a folder that is not the pod's. What a pod does not need is not made: a file system is
// slow at folders that come and go.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// Getter reads the Secrets and ConfigMaps that pods name; api.Objects is one.
type Getter interface {
	Get(ctx context.Context, r *api.Resource, namespace, name string) (api.Object, error)
}

// Lister lists the Services that pods are told of; api.Objects is one.
type Lister interface {
	List(ctx context.Context, r *api.Resource, o api.ListOptions) (api.List, error)
}

// Config says where volumes are.
type Config struct {
	Root     string // folder of the pods' folders; made when missing
	Disks    string // folder of the volumes of api.LocalProvisioner; made when missing
	Node     string // name of this node, which those have to be of
	Objects  Getter
	Services Lister // nil: pods are not told of Services in their environment
	// Allocatable is what the node has for pods: the limit of a container that names
	// none; nil is not known.
	Allocatable func() corev1.ResourceList
	ResolvConf  string // what pods resolve names by; "" is the machine's
	// ClusterDNS is the server with the cluster's names; zero is none.
	ClusterDNS    netip.Addr
	ClusterDomain string // "" is cluster.local
	// Tokens hands out tokens of service accounts; nil: pods get none.
	Tokens api.Tokens
	// APIServer is where pods that are no functions' reach the API; zero is nowhere.
	APIServer netip.AddrPort
	Log       *slog.Logger // nil discards
	// OnDisk keeps on disk what belongs in memory, for a process that may not
	// mount.
	OnDisk bool
}

// Manager makes and removes volumes. Its methods are safe for concurrent use
// for different pods, and Refresh is with Setup of the same one.
type Manager struct {
	c Config

	tokens tokens

	mu     sync.Mutex
	seen   map[types.UID]map[string]api.Object // what was read for a pod, for when Objects does not answer
	linked map[types.UID][][2]string           // what of Services a pod was told
	busy   map[types.UID]chan struct{}         // of one place: held while a pod's volumes are written
}

// ConfigError is a pod that cannot have what it names until somebody changes
// an object.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

func configError(format string, args ...any) error {
	return &ConfigError{fmt.Errorf(format, args...)}
}

// New makes a manager and its folder, which is for root alone: only a bind mount
// leads a container in.
func New(c Config) (*Manager, error) {
	if err := os.MkdirAll(c.Root, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the pods: %w", err)
	}
	if c.Disks != "" {
		if err := os.MkdirAll(c.Disks, 0o700); err != nil {
			return nil, fmt.Errorf("folder of the volumes: %w", err)
		}
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{
		c: c, seen: map[types.UID]map[string]api.Object{}, linked: map[types.UID][][2]string{}, busy: map[types.UID]chan struct{}{},
		tokens: tokens{pods: map[types.UID]*holder{}, wake: make(chan struct{}, 1)},
	}, nil
}

// Setup makes the pod's volumes, or brings those that are there up to date.
// A *ConfigError says that an object or key is missing.
func (m *Manager) Setup(ctx context.Context, p *corev1.Pod) error {
	dir, err := m.dir(p.UID)
	if err != nil {
		return err
	}
	defer m.hold(p.UID)()
	if m.c.Tokens != nil && hasTokens(p) {
		h := m.tokens.holder(p)
		defer func() { m.tokens.schedule(h, h.due(nil)) }()
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if err := os.MkdirAll(filepath.Join(dir, base(v)), 0o711); err != nil {
			return err
		}
		if err := m.setup(ctx, p, v, dir); err != nil {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
	}
	return nil
}

// Refresh brings what a running pod has of objects up to date: readers see the old
// version or the new one. What cannot be read stays as it was.
func (m *Manager) Refresh(ctx context.Context, p *corev1.Pod) error {
	dir, err := m.dir(p.UID)
	if err != nil {
		return err
	}
	defer m.hold(p.UID)()
	var errs []error
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.Secret == nil && v.ConfigMap == nil && v.DownwardAPI == nil && v.Projected == nil {
			continue
		}
		files, err := m.payload(ctx, p, v)
		if err == nil {
			err = replace(filepath.Join(dir, base(v), v.Name), files, group(p))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("volume %q: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}

// hold lets one at a time write a pod's volumes.
func (m *Manager) hold(uid types.UID) (release func()) {
	m.mu.Lock()
	l := m.busy[uid]
	if l == nil {
		l = make(chan struct{}, 1)
		m.busy[uid] = l
	}
	m.mu.Unlock()
	l <- struct{}{}
	return func() { <-l }
}

func (m *Manager) setup(ctx context.Context, p *corev1.Pod, v *corev1.Volume, dir string) error {
	if !filepath.IsLocal(v.Name) || strings.ContainsRune(v.Name, '/') {
		return configError("the name is not one of a folder")
	}
	target := filepath.Join(dir, base(v), v.Name)
	if v.EmptyDir != nil {
		return m.emptyDir(p, v.EmptyDir, target)
	}
	if v.PersistentVolumeClaim != nil {
		return m.claim(ctx, p, v.PersistentVolumeClaim.ClaimName, target)
	}
	if v.HostPath != nil {
		if err := hostPath(v.HostPath); err != nil {
			return err
		}
		return point(target, v.HostPath.Path)
	}
	files, err := m.payload(ctx, p, v)
	if err != nil {
		return err
	}
	if base(v) == "secrets" {
		if err := m.tmpfs(filepath.Join(dir, "secrets"), "mode=0711"); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	return replace(target, files, group(p))
}

// base is the folder of a volume's kind: what may hold secrets is in memory.
func base(v *corev1.Volume) string {
	if v.Secret != nil || v.Projected != nil {
		return "secrets"
	}
	return "volumes"
}

func group(p *corev1.Pod) *int64 {
	if p.Spec.SecurityContext == nil {
		return nil
	}
	return p.Spec.SecurityContext.FSGroup
}

func (m *Manager) emptyDir(p *corev1.Pod, e *corev1.EmptyDirVolumeSource, target string) error {
	if err := os.MkdirAll(target, 0o777); err != nil {
		return err
	}
	if e.Medium == corev1.StorageMediumMemory {
		options := "mode=0777"
		if e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
			options += fmt.Sprintf(",size=%d", e.SizeLimit.Value())
		}
		if err := m.tmpfs(target, options); err != nil {
			return err
		}
	}
	return openTo(p, target)
}

// openTo has everybody write to a folder, and new files in it belong to the pod's group.
func openTo(p *corev1.Pod, target string) error {
	mode := fs.FileMode(0o777)
	if gid := group(p); gid != nil {
		if err := os.Lchown(target, -1, int(*gid)); err != nil {
			return err
		}
		mode |= fs.ModeSetgid
	}
	return os.Chmod(target, mode) // past the umask
}

// Mounts are a container's mounts: its volumes and the files of /etc. To be
// called after Setup and Files, with the same etc; env is what Env has answered.
func (m *Manager) Mounts(p *corev1.Pod, c *corev1.Container, env []string, etc string) ([]runtime.Mount, error) {
	dir, err := m.dir(p.UID)
	if err != nil {
		return nil, err
	}
	etc, err = m.etc(p.UID, etc)
	if err != nil {
		return nil, err
	}
	var out []runtime.Mount
	taken := map[string]bool{}
	for _, vm := range c.VolumeMounts {
		mt, err := m.mount(dir, p, env, vm)
		if err != nil {
			return nil, configError("mount of volume %q at %s: %w", vm.Name, vm.MountPath, err)
		}
		out = append(out, mt)
		taken[filepath.Clean(vm.MountPath)] = true
	}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		target := "/etc/" + name
		if taken[target] {
			continue
		}
		// They may lie on the node's disk: a function must not fill that.
		readOnly := p.Labels[api.LabelFunction] != ""
		out = append(out, runtime.Mount{Source: filepath.Join(etc, name), Target: target, ReadOnly: readOnly})
	}
	return out, nil
}

func (m *Manager) mount(dir string, p *corev1.Pod, env []string, vm corev1.VolumeMount) (runtime.Mount, error) {
	var v *corev1.Volume
	for i := range p.Spec.Volumes {
		if p.Spec.Volumes[i].Name == vm.Name {
			v = &p.Spec.Volumes[i]
		}
	}
	switch {
	case v == nil:
		return runtime.Mount{}, errors.New("the pod has no volume of this name")
	case !filepath.IsAbs(vm.MountPath):
		return runtime.Mount{}, errors.New("the path is not absolute")
	}
	out := runtime.Mount{
		Source: filepath.Join(dir, base(v), v.Name), Target: filepath.Clean(vm.MountPath),
		ReadOnly: vm.ReadOnly || !m.writable(p, v),
	}
	if vm.MountPropagation != nil {
		out.Propagation = propagation(*vm.MountPropagation)
	}
	if v.PersistentVolumeClaim != nil || v.HostPath != nil {
		folder, err := filepath.EvalSymlinks(out.Source)
		if err != nil {
			return runtime.Mount{}, err
		}
		out.Source = folder
	}
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		sub = Expand([]string{vm.SubPathExpr}, env)[0]
		if strings.Contains(sub, "$(") {
			return runtime.Mount{}, fmt.Errorf("subPathExpr %q names a variable that the container has not", vm.SubPathExpr)
		}
		if strings.HasPrefix(sub, "/") || !filepath.IsLocal(sub) {
			return runtime.Mount{}, fmt.Errorf("subPathExpr %q is %q: it must be a path in the volume", vm.SubPathExpr, sub)
		}
	}
	if sub == "" {
		return out, nil
	}
	source, err := within(out.Source, sub, m.writable(p, v))
	out.Source = source
	return out, err
}

// propagation is a mount's in the words of the kernel.
func propagation(m corev1.MountPropagationMode) string {
	switch m {
	case corev1.MountPropagationHostToContainer:
		return "rslave"
	case corev1.MountPropagationBidirectional:
		return "rshared"
	case corev1.MountPropagationNone:
	}
	return ""
}

// within is the path of sub in a volume. It never leaves the volume, whatever
// links a container has laid there.
func within(volume, sub string, create bool) (string, error) {
	root, err := os.OpenRoot(volume)
	if err != nil {
		return "", err
	}
	defer root.Close()
	_, err = root.Stat(sub)
	if errors.Is(err, fs.ErrNotExist) && create {
		err = makeSub(root, sub)
	}
	if err != nil {
		return "", fmt.Errorf("subPath %q: %w", sub, err)
	}
	full, err := filepath.EvalSymlinks(filepath.Join(volume, sub))
	if err != nil {
		return "", err
	}
	top, err := filepath.EvalSymlinks(volume)
	if err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(top, full); err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("subPath %q leaves the volume", sub)
	}
	return full, nil
}

// makeSub makes a folder and those that it is in, with the mode of the volume itself, so
// that whoever may write to that may write to them.
func makeSub(root *os.Root, sub string) error {
	top, err := root.Stat(".")
	if err != nil {
		return err
	}
	part := ""
	for name := range strings.SplitSeq(filepath.Clean(sub), "/") {
		part = filepath.Join(part, name)
		switch err := root.Mkdir(part, 0o700); {
		case errors.Is(err, fs.ErrExist):
		case err != nil:
			return err
		default:
			if err := root.Chmod(part, top.Mode().Perm()|top.Mode()&fs.ModeSetgid); err != nil {
				return err
			}
		}
	}
	return nil
}

// Release unmounts what a pod has in memory and leaves its folder: the pod
// comes back. It may be called at any time.
func (m *Manager) Release(uid types.UID) error {
	dir, err := m.dir(uid)
	if err != nil {
		return err
	}
	defer m.hold(uid)()
	m.tokens.drop(uid)
	m.mu.Lock()
	delete(m.seen, uid)
	delete(m.linked, uid)
	delete(m.busy, uid)
	m.mu.Unlock()
	return unmountBelow(dir)
}

// Remove unmounts and removes all that a pod has. It may be called at any time.
func (m *Manager) Remove(uid types.UID) error {
	if err := m.Release(uid); err != nil {
		return err
	}
	dir, err := m.dir(uid)
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// List answers with the pods that have a folder.
func (m *Manager) List() ([]types.UID, error) {
	entries, err := os.ReadDir(m.c.Root)
	if err != nil {
		return nil, err
	}
	out := make([]types.UID, len(entries))
	for i, e := range entries {
		out[i] = types.UID(e.Name())
	}
	return out, nil
}

func (m *Manager) dir(uid types.UID) (string, error) {
	if uid == "" || !filepath.IsLocal(string(uid)) || strings.ContainsRune(string(uid), '/') || uid == "." {
		return "", fmt.Errorf("pod UID %q can't name a folder", uid)
	}
	return filepath.Join(m.c.Root, string(uid)), nil
}

// get reads an object for a pod. When Objects does not answer, what was read
// before serves: a container may start anew during an outage.
func (m *Manager) get(ctx context.Context, p *corev1.Pod, r *api.Resource, name string) (api.Object, error) {
	key := r.Plural + "/" + name
	namespace := ""
	if r.Namespaced {
		namespace = p.Namespace
	}
	obj, err := m.c.Objects.Get(ctx, r, namespace, name)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		if m.seen[p.UID] == nil {
			m.seen[p.UID] = map[string]api.Object{}
		}
		m.seen[p.UID][key] = obj
		return obj, nil
	case apierrors.IsNotFound(err):
		return nil, &ConfigError{notFound{r.Singular, name, p.Namespace}}
	case m.seen[p.UID][key] != nil:
		return m.seen[p.UID][key], nil
	}
	return nil, fmt.Errorf("%s %q: %w", r.Singular, name, err)
}

// notFound is an object or a key that is missing: optional ones may be.
type notFound struct{ kind, name, namespace string }

func (n notFound) Error() string {
	return fmt.Sprintf("%s %q not found in namespace %q", n.kind, n.name, n.namespace)
}
