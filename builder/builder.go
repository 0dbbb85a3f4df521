// Package builder makes an OCI image of a function's source, on a machine that
// reaches no registry: a Go handler becomes one static binary on an otherwise
// empty root, a shell handler a script on busybox under the watchdog. The same
// source makes the same image, bit for bit.
package builder

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/podsnap/podsnap/functions/template"
)

// Job is one function to build.
type Job struct {
	Name      string            // of the function, for messages
	Lang      string            // template
	Handler   string            // folder of the source
	Process   string            // what the watchdog runs; "" is the template's
	BuildArgs map[string]string // environment of the build
}

// engine builds the handlers of one language.
type engine func(ctx context.Context, j Job, t template.Template, progress io.Writer) (v1.Image, error)

// engines are those that there are, by template. A Dockerfile engine takes its
// place here.
func engines() map[string]engine { return map[string]engine{"go": buildGo, "sh": buildShell} }

// Build makes the image. progress is told what takes long.
func Build(ctx context.Context, j Job, progress io.Writer) (v1.Image, error) {
	t, err := template.Get(j.Lang)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(j.Handler)
	if err != nil {
		return nil, fmt.Errorf("handler: %w", err)
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("handler %s is not a folder", j.Handler)
	}
	e := engines()[j.Lang]
	if e == nil {
		return nil, fmt.Errorf("there is no engine that builds %s", j.Lang)
	}
	return e(ctx, j, t, progress)
}

// Save writes an image to a file from which Load, containerd and Docker read
// it.
func Save(img v1.Image, ref, path string) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("image name %q: %w", ref, err)
	}
	if err := tarball.WriteToFile(path+".new", tag, img); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Load reads what Save has written. The image reads the file as it is used.
func Load(path string) (v1.Image, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	return tarball.ImageFromPath(path, nil)
}

// Target says where an image goes.
type Target struct {
	Image          string // its name
	Platform       string // host:port of the platform's registry, for names without a registry
	Insecure       bool   // the platform's is reached by plain HTTP
	User, Password string // of the platform's
}

// Push sends an image to the platform's registry, or to the one that its name
// has, with the credentials of `docker login`. It answers with the digest.
func Push(ctx context.Context, img v1.Image, t Target) (digest string, err error) {
	named, err := reference.ParseDockerRef(t.Image)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", t.Image, err)
	}
	opts := []remote.Option{remote.WithContext(ctx)}
	to, insecure := named.String(), false
	if reference.Domain(named) == "docker.io" {
		path := reference.Path(named)
		if rest, ok := strings.CutPrefix(path, "library/"); ok {
			path = rest
		}
		to, insecure = t.Platform+"/"+path+to[len(named.Name()):], t.Insecure
		opts = append(opts, remote.WithAuth(&authn.Basic{Username: t.User, Password: t.Password}))
	} else {
		opts = append(opts, remote.WithAuthFromKeychain(authn.DefaultKeychain))
	}
	var nameOpts []name.Option
	if insecure {
		nameOpts = append(nameOpts, name.Insecure)
	}
	ref, err := name.ParseReference(to, nameOpts...)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", t.Image, err)
	}
	if err := remote.Write(ref, img, opts...); err != nil {
		return "", err
	}
	d, err := img.Digest()
	if err != nil {
		return "", err
	}
	return d.String(), nil
}

// command finds a program that may lie outside PATH.
func command(name string, also ...string) (string, bool) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), also...) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return p, true
		}
	}
	return "", false
}
