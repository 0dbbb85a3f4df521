package fake

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// ErrUnknownImage is a PullErr for an image that is nowhere.
var ErrUnknownImage = &runtime.PullError{Reason: "ErrImagePull", Err: errors.New("manifest unknown")}

// Ensure implements runtime.Images: every image is there unless its script
// says otherwise.
func (r *Runtime) Ensure(ctx context.Context, ref string, _ corev1.PullPolicy, logins ...runtime.Login) (runtime.Image, error) {
	if err := r.begin(ctx, "Ensure", ref); err != nil {
		return runtime.Image{}, err
	}
	r.mu.Lock()
	script := r.scripts[ref]
	r.mu.Unlock()
	if err := wait(ctx, script.PullDelay); err != nil {
		return runtime.Image{}, err
	}
	if script.PullErr != nil {
		return runtime.Image{}, script.PullErr
	}
	if script.PullAs != "" && !slices.ContainsFunc(logins, func(l runtime.Login) bool { return l.User == script.PullAs }) {
		return runtime.Image{}, ErrUnknownImage
	}
	return runtime.Image{Ref: ref, ID: "sha256:" + ref, Size: 1 << 20}, nil
}

// Import implements runtime.Images: the archive's content is the image's name.
func (r *Runtime) Import(_ context.Context, archive io.Reader) ([]string, error) {
	b, err := io.ReadAll(archive)
	if err != nil {
		return nil, err
	}
	r.Script(string(b), Script{})
	return []string{string(b)}, nil
}

// Images is the engine as runtime.Images, whose List differs from that of
// runtime.Runtime.
func (r *Runtime) Images() runtime.Images { return images{r} }

type images struct{ *Runtime }

// List implements runtime.Images with the images that have a script.
func (i images) List(context.Context) ([]corev1.ContainerImage, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []corev1.ContainerImage
	for _, ref := range slices.Sorted(maps.Keys(i.scripts)) {
		if i.scripts[ref].PullErr == nil {
			out = append(out, corev1.ContainerImage{Names: []string{ref}, SizeBytes: 1 << 20})
		}
	}
	return out, nil
}

// Remove implements runtime.Images.
func (r *Runtime) Remove(_ context.Context, ref string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.scripts, ref)
	return nil
}

// Dial connects to a pod's address: it is accepted when any container of the
// pod accepts connections, refused otherwise.
func (r *Runtime) Dial(_ context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		s := r.sandboxes[c.Sandbox]
		if s == nil || s.IP != host || c.State != runtime.Running || c.frozen || c.script.ReadyAfter < 0 {
			continue
		}
		if time.Since(c.StartedAt) >= c.script.ReadyAfter {
			near, far := net.Pipe()
			far.Close()
			return near, nil
		}
	}
	return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
}
