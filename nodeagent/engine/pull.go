package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

const (
	// resolveTimeout bounds the question to one registry, so that one that
	// cannot be reached does not hide the next.
	resolveTimeout = 15 * time.Second
	// pullTimeout bounds a whole pull, unpacking included.
	pullTimeout = 20 * time.Minute
)

// pull gets the image from the first source that has it.
func (e *Engine) pull(ctx context.Context, named reference.Named, logins []runtime.Login) error {
	begin := time.Now()
	sources := e.c.Registries.sources(named, logins...)
	errs := make([]error, 0, len(sources))
	for _, s := range sources {
		resolver, closeIdle := newResolver(s)
		_, err := e.client.Pull(ctx, named.String(), containerd.WithResolver(resolver),
			containerd.WithPullUnpack, containerd.WithPullSnapshotter(snapshotter))
		closeIdle()
		if err == nil {
			e.metrics.pull.Observe(time.Since(begin).Seconds())
			e.c.Log.Info("pulled image", slog.String("image", named.String()), slog.String("from", s.label), slog.Duration("took", time.Since(begin)))
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return &runtime.PullError{Reason: "ErrImagePull", Err: pullError(reference.FamiliarString(named), sources, errs)}
}

// pullError says in one sentence where the image was looked for and why it
// was not had there.
func pullError(name string, sources []source, errs []error) error {
	missing, why := make([]string, 0, len(errs)), make([]string, 0, len(errs))
	for i, err := range errs {
		if errdefs.IsNotFound(err) {
			missing = append(missing, sources[i].label)
		} else {
			why = append(why, sources[i].label+": "+reason(err))
		}
	}
	missing, why = slices.Compact(missing), slices.Compact(why) // one registry, by several logins
	text := fmt.Sprintf("image %q could not be pulled", name)
	if len(missing) > 0 {
		text = fmt.Sprintf("image %q not found in %s", name, strings.Join(missing, " nor at "))
	}
	if len(why) > 0 {
		text += " (" + strings.Join(why, "; ") + ")"
	}
	return &cleaned{text: text, err: errors.Join(errs...)}
}

// reason is the end of an error's chain, where a network fault says what it is.
func reason(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	status, _ := errors.AsType[remoteserrors.ErrUnexpectedStatus](err)
	if errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) || status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden {
		return "access denied: the repository does not exist or needs credentials"
	}
	return err.Error()
}

// aliased resolves another name than the one the image is stored under.
type aliased struct {
	inner remotes.Resolver
	ref   string
}

func (a *aliased) Resolve(ctx context.Context, ref string) (string, ocispec.Descriptor, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	_, desc, err := a.inner.Resolve(ctx, a.ref)
	return ref, desc, err
}

func (a *aliased) Fetcher(ctx context.Context, _ string) (remotes.Fetcher, error) {
	return a.inner.Fetcher(ctx, a.ref)
}

func (a *aliased) Pusher(ctx context.Context, _ string) (remotes.Pusher, error) {
	return a.inner.Pusher(ctx, a.ref)
}

// newResolver makes a resolver for one source. The function ends its
// connections.
func newResolver(s source) (r *aliased, closeIdle func()) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: resolveTimeout,
		IdleConnTimeout:       5 * time.Second,
		ForceAttemptHTTP2:     true,
	}
	if s.insecure {
		t.Proxy = nil
	}
	client := &http.Client{Transport: t}
	if s.client != nil {
		client = s.client // whose connections are its owner's
		t = nil
	}
	auth := []docker.AuthorizerOpt{docker.WithAuthClient(client)}
	if s.creds != nil {
		auth = append(auth, docker.WithAuthCreds(func(string) (string, string, error) {
			user, password := s.creds()
			return user, password, nil
		}))
	}
	hosts := docker.ConfigureDefaultRegistries(
		docker.WithClient(client),
		docker.WithAuthorizer(docker.NewDockerAuthorizer(auth...)),
		docker.WithPlainHTTP(func(string) (bool, error) { return s.insecure, nil }),
	)
	inner := docker.NewResolver(docker.ResolverOptions{Hosts: func(host string) ([]docker.RegistryHost, error) {
		hs, err := hosts(host)
		for i := range hs {
			hs[i].Path = cmp.Or(s.path, hs[i].Path)
		}
		return hs, err
	}})
	return &aliased{inner: inner, ref: s.ref}, func() {
		if t != nil {
			t.CloseIdleConnections()
		}
	}
}
