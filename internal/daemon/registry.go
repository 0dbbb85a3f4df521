package daemon

import (
	"context"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/distribution/reference"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/builder/registry"
	"github.com/podsnap/podsnap/functions"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// newRegistry opens the embedded registry, behind the gateway's credentials.
func (p *platform) newRegistry() (*registry.Registry, error) {
	c := registry.Config{Dir: p.c.path("registry"), InUse: p.imageInUse, Log: p.log, Metrics: p.metrics}
	if !p.c.NoAuth {
		c.Auth = func(r *http.Request) bool {
			if r.Context().Value(trustedKey{}) != nil {
				return true
			}
			user, password, ok := r.BasicAuth()
			u := subtle.ConstantTimeCompare([]byte(user), []byte(p.secrets.user))
			w := subtle.ConstantTimeCompare([]byte(password), []byte(p.secrets.password))
			return ok && u&w == 1
		}
	}
	return registry.New(c)
}

// imageInUse reports whether a function or a pod runs an image by its digest.
// While that can't be known, it is.
func (p *platform) imageInUse(digest string) bool {
	ctx := context.Background() //nolint:forbidigo // reads a cache
	fns, err := api.Items[*api.Function](ctx, p.objects, api.Functions, api.ListOptions{})
	if err != nil {
		return true
	}
	for _, f := range fns {
		if f.Annotations[functions.AnnotationDigest] == digest || strings.HasSuffix(f.Spec.Image, digest) {
			return true
		}
	}
	pods, err := api.Items[*corev1.Pod](ctx, p.objects, api.Pods, api.ListOptions{})
	if err != nil {
		return true
	}
	for _, pod := range pods {
		for _, c := range pod.Spec.Containers {
			if strings.HasSuffix(c.Image, digest) {
				return true
			}
		}
	}
	return false
}

// digests finds what a tag of the embedded registry is at the moment of a
// deploy, so that a function keeps the image it was deployed with.
func digests(reg *registry.Registry) func(context.Context, string) string {
	return func(_ context.Context, image string) string {
		named, err := reference.ParseDockerRef(image)
		if err != nil || reference.Domain(named) != "docker.io" {
			return ""
		}
		tagged, ok := named.(reference.Tagged)
		if !ok {
			return ""
		}
		d, _ := reg.Resolve(strings.TrimPrefix(reference.Path(named), "library/"), tagged.Tag())
		return d
	}
}

func metricsHandler(gather func() prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		promhttp.HandlerFor(gather(), promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("OK")) })
	return mux
}

// kubeconfig is what kubectl needs to reach the API of this machine.
func kubeconfig(addr, token string, ca []byte) string {
	return kubeconfigOf("https://"+addr, ca, "admin", api.FunctionNamespace, map[string]any{"token": token})
}

// kubeconfigOf is for a user with some credentials.
func kubeconfigOf(server string, ca []byte, user, namespace string, credentials map[string]any) string {
	type m = map[string]any
	b, err := yaml.Marshal(m{
		"apiVersion": "v1", "kind": "Config", "current-context": "podsnap",
		"clusters": []m{{"name": "podsnap", "cluster": m{"server": server, "certificate-authority-data": ca}}},
		"users":    []m{{"name": user, "user": credentials}},
		"contexts": []m{{"name": "podsnap", "context": m{"cluster": "podsnap", "user": user, "namespace": namespace}}},
	})
	if err != nil {
		panic(err) // maps of strings always marshal
	}
	return string(b)
}
