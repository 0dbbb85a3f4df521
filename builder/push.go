package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// PushConfig says where images go.
type PushConfig struct {
	// Registry is the platform's (host and port): names that name no registry
	// (resize:latest, me/resize:1) are pushed to it.
	Registry string
	Insecure bool // plain HTTP to Registry; loopback addresses always are
	// Username and Password are for Registry. For others the logins in docker's
	// configuration count.
	Username, Password string
	Transport          http.RoundTripper // nil is the default
	Progress           io.Writer         // nil discards
}

// Push sends the image to its registry and answers with its full name there,
// by digest.
func Push(ctx context.Context, img *Image, c PushConfig) (string, error) {
	ref, own, err := c.target(img.Ref)
	if err != nil {
		return "", fmt.Errorf("push %s: %w", img.Ref, err)
	}
	o := []remote.Option{remote.WithContext(ctx), remote.WithUserAgent("podsnap")}
	if c.Transport != nil {
		o = append(o, remote.WithTransport(c.Transport))
	}
	switch {
	case !own:
		o = append(o, remote.WithAuthFromKeychain(authn.DefaultKeychain))
	case c.Username != "":
		o = append(o, remote.WithAuth(&authn.Basic{Username: c.Username, Password: c.Password}))
	}
	if c.Progress != nil {
		say(c.Progress, "push %s (%.1f MB)", ref.Name(), float64(img.Size)/1e6)
	}
	if err := remote.Write(ref, img.image, o...); err != nil {
		return "", fmt.Errorf("push %s: %w", ref.Name(), remedy(err, ref.Context().RegistryStr(), own))
	}
	return ref.Context().Name() + "@" + img.Digest, nil
}

// target is the name to push to, and whether that is the platform's registry.
func (c *PushConfig) target(ref string) (name.Reference, bool, error) {
	if hasRegistry(ref) {
		r, err := name.ParseReference(ref)
		if err == nil && c.Registry != "" && r.Context().RegistryStr() == c.Registry {
			return c.own(ref)
		}
		return r, false, err
	}
	if c.Registry == "" {
		return nil, false, errors.New("the name has no registry: write registry/name:tag")
	}
	return c.own(c.Registry + "/" + ref)
}

func (c *PushConfig) own(ref string) (name.Reference, bool, error) {
	var o []name.Option
	if c.Insecure {
		o = append(o, name.Insecure)
	}
	r, err := name.ParseReference(ref, o...)
	return r, true, err
}

// hasRegistry: the first word of a name is a host if it looks like one.
func hasRegistry(ref string) bool {
	first, _, slash := strings.Cut(ref, "/")
	return slash && (strings.ContainsAny(first, ".:") || first == "localhost")
}

func remedy(err error, host string, own bool) error {
	var te *transport.Error
	if !errors.As(err, &te) || te.StatusCode != http.StatusUnauthorized && te.StatusCode != http.StatusForbidden {
		return err
	}
	if own {
		return fmt.Errorf("%w: run `faas login`", err)
	}
	return fmt.Errorf("%w: run `docker login %s`, or use a name without a registry for the platform's own", err, host)
}
