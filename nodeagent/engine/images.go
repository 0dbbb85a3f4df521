package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	ctrimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

// image is an unpacked image of the node.
type image struct {
	runtime.Image
	chainID string // of its topmost snapshot

	once     sync.Once
	accounts spec.Accounts
	err      error

	view  sync.Mutex
	lower []string // see Rootfs; nil until it is asked for
}

// inspect looks once into the image's layers for user names and for what
// makes it unsafe. mounts are those of any snapshot on top of it.
func (i *image) inspect(mounts []mount.Mount) (spec.Accounts, error) {
	i.once.Do(func() {
		l, err := layersOf(mounts)
		if err == nil {
			err = l.check()
		}
		if err == nil {
			i.accounts, err = l.accounts()
		}
		i.err = err
	})
	return i.accounts, i.err
}

// images implements runtime.Images; the engine itself has another List.
type images struct{ e *Engine }

// Images answers with the node's images.
func (e *Engine) Images() runtime.Images { return images{e} }

// Ensure implements runtime.Images. Calls for one image at one time are one
// pull. An empty policy is IfNotPresent; what is on the node is for everybody.
func (i images) Ensure(ctx context.Context, ref string, policy corev1.PullPolicy, logins ...runtime.Login) (runtime.Image, error) {
	e := i.e
	named, err := normalize(ref)
	if err != nil {
		return runtime.Image{}, &runtime.PullError{Reason: "InvalidImageName", Err: err}
	}
	name := named.String()
	if policy != corev1.PullAlways {
		img, err := e.localImage(ctx, name)
		if err == nil {
			return img.Image, nil
		}
		if !errdefs.IsNotFound(err) {
			return runtime.Image{}, &runtime.PullError{Reason: "ErrImagePull", Err: err}
		}
		if policy == corev1.PullNever {
			return runtime.Image{}, &runtime.PullError{
				Reason: "ErrImageNeverPull",
				Err:    fmt.Errorf("image %q is not on the node and its pull policy is Never", ref),
			}
		}
	}
	// The pull belongs to all who wait for it, as the same: it goes on without the first.
	result := e.pulls.DoChan(fmt.Sprintf("%s %q", name, logins), func() (any, error) {
		ctx, cancel := context.WithTimeout(e.ns(context.WithoutCancel(ctx)), pullTimeout)
		defer cancel()
		if err := e.pull(ctx, named, logins); err != nil {
			return nil, err
		}
		e.forget(name)
		return e.localImage(ctx, name)
	})
	select {
	case r := <-result:
		if r.Err != nil {
			if pe, ok := errors.AsType[*runtime.PullError](r.Err); ok {
				return runtime.Image{}, pe
			}
			return runtime.Image{}, &runtime.PullError{Reason: "ErrImagePull", Err: r.Err}
		}
		return r.Val.(*image).Image, nil
	case <-ctx.Done():
		return runtime.Image{}, &runtime.PullError{Reason: "ErrImagePull", Err: fmt.Errorf("pull %s: %w", ref, context.Cause(ctx))}
	}
}

// localImage answers with an image of the node's store, unpacked. One that is
// not there is errdefs.ErrNotFound.
func (e *Engine) localImage(ctx context.Context, ref string) (*image, error) {
	named, err := normalize(ref)
	if err != nil {
		return nil, err
	}
	name := named.String()
	e.mu.Lock()
	img := e.images[name]
	e.mu.Unlock()
	if img != nil {
		return img, nil
	}
	ctx = e.ns(ctx)
	i, err := e.client.ImageService().Get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("image %q is not on the node: %w", ref, err)
	}
	if img, err = e.load(ctx, i); err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.images[name] = img
	return img, nil
}

// load reads what an image is and unpacks it if it is not.
func (e *Engine) load(ctx context.Context, i ctrimages.Image) (*image, error) {
	store := e.client.ContentStore()
	manifest, config, err := readImage(ctx, store, i.Target)
	if err != nil {
		return nil, err
	}
	chainID := identity.ChainID(config.RootFS.DiffIDs).String()
	if _, err := e.snapshots.Stat(ctx, chainID); errdefs.IsNotFound(err) {
		err = containerd.NewImage(e.client, i).Unpack(ctx, snapshotter)
		if err != nil {
			return nil, fmt.Errorf("unpack: %w", err)
		}
	} else if err != nil {
		return nil, err
	}
	size := manifest.Config.Size
	for _, l := range manifest.Layers {
		size += l.Size
	}
	c := config.Config
	return &image{chainID: chainID, Image: runtime.Image{
		Ref: i.Name, ID: i.Target.Digest.String(), Size: size,
		Config: runtime.ImageConfig{User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir},
	}}, nil
}

func readImage(ctx context.Context, store content.Provider, target ocispec.Descriptor) (m ocispec.Manifest, c ocispec.Image, err error) {
	if m, err = ctrimages.Manifest(ctx, store, target, platforms.Default()); err != nil {
		return m, c, fmt.Errorf("read manifest: %w", err)
	}
	b, err := content.ReadBlob(ctx, store, m.Config)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return m, c, fmt.Errorf("read configuration: %w", err)
	}
	if len(c.RootFS.DiffIDs) == 0 {
		return m, c, errors.New("it has no layers")
	}
	return m, c, nil
}

func (e *Engine) forget(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.images, name)
}

// Import implements runtime.Images.
func (i images) Import(ctx context.Context, archive io.Reader) ([]string, error) {
	e := i.e
	ctx = e.ns(ctx)
	got, err := e.client.Import(ctx, archive, containerd.WithImageRefTranslator(fullName))
	if err != nil {
		return nil, fmt.Errorf("import image archive: %w", err)
	}
	var out []string
	for _, img := range got {
		name := fullName(img.Name)
		if name == "" {
			return out, fmt.Errorf("import image archive: %q is not an image name", img.Name)
		}
		if name != img.Name {
			if img, err = e.rename(ctx, img, name); err != nil {
				return out, fmt.Errorf("import image %s: %w", name, err)
			}
		}
		e.forget(name)
		if _, err := e.localImage(ctx, name); err != nil {
			return out, fmt.Errorf("import: %w", err)
		}
		out = append(out, name)
	}
	if len(out) == 0 {
		return nil, errors.New("import image archive: it names no image; tag the image before it is saved")
	}
	return out, nil
}

// fullName is the normal form of a name, "" for none.
func fullName(ref string) string {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return ""
	}
	return named.String()
}

func (e *Engine) rename(ctx context.Context, img ctrimages.Image, name string) (ctrimages.Image, error) {
	old, store := img.Name, e.client.ImageService()
	img.Name = name
	out, err := store.Create(ctx, img)
	if errdefs.IsAlreadyExists(err) {
		out, err = store.Update(ctx, img, "target")
	}
	if err != nil {
		return img, err
	}
	return out, store.Delete(ctx, old)
}

// List implements runtime.Images. Images that cannot be read are left out.
func (i images) List(ctx context.Context) ([]corev1.ContainerImage, error) {
	e := i.e
	ctx = e.ns(ctx)
	all, err := e.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	byDigest := map[string]int{}
	var out []corev1.ContainerImage
	for _, img := range all {
		d := img.Target.Digest.String()
		if at, ok := byDigest[d]; ok {
			out[at].Names = append(out[at].Names, img.Name)
			continue
		}
		m, err := ctrimages.Manifest(ctx, e.client.ContentStore(), img.Target, platforms.Default())
		if err != nil {
			e.c.Log.Debug("list image", logError(err))
			continue
		}
		size := m.Config.Size
		for _, l := range m.Layers {
			size += l.Size
		}
		names := []string{img.Name}
		if named, err := reference.ParseNormalizedNamed(img.Name); err == nil {
			names = []string{reference.TrimNamed(named).Name() + "@" + d, img.Name}
		}
		byDigest[d] = len(out)
		out = append(out, corev1.ContainerImage{Names: names, SizeBytes: size})
	}
	return out, nil
}

// Remove implements runtime.Images. An image that is not there is no error.
func (i images) Remove(ctx context.Context, ref string) error {
	named, err := normalize(ref)
	if err != nil {
		return err
	}
	i.e.forget(named.String())
	if err := i.e.client.ImageService().Delete(i.e.ns(ctx), named.String()); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	return nil
}
