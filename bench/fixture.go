package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// function is the measured one: the Go template with a handler that answers at
// once, at the path /sleep/5ms after so long, at /hold when its caller goes
// away. It has one replica.
const function = "bench"

const handler = `package function

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// Handle answers one request.
func Handle(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/hold" {
		<-r.Context().Done()
		return
	}
	if s, ok := strings.CutPrefix(r.URL.Path, "/sleep/"); ok {
		d, err := time.ParseDuration(s)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		time.Sleep(d)
	}
	io.WriteString(w, "hello\n")
}
`

// platform is the running platform, started at the first call.
func (b *bench) platform() *platform.Platform {
	if b.running == nil {
		b.running = platform.New(b, b.flags...)
	}
	return b.running
}

// gateway is its host:port.
func (b *bench) gateway() string { return strings.TrimPrefix(b.platform().URL, "http://") }

// prepare builds the measured function and deploys it with one replica, at the
// first call.
func (b *bench) prepare() {
	if b.image != "" {
		return
	}
	p := b.platform()
	dir, err := os.MkdirTemp("", "psb")
	b.must(err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	faas := func(args ...string) {
		if out, err := p.FaasIn(dir, "", args...); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	faas("login")
	faas("new", function, "--lang", "go")
	b.must(os.WriteFile(filepath.Join(dir, function, "handler.go"), []byte(handler), 0o600))
	faas("up", "--label", "com.openfaas.scale.min=1", "--label", "com.openfaas.scale.max=1")
	b.must(fetch(b.ctx, http.DefaultClient, p.URL+"/function/"+function))
	f, err := p.Client.Function(b.ctx, "", function, false)
	b.must(err)
	b.dir, b.image = dir, f.Image
	b.watched = watchPods(b)
}

// direct is host:port of the measured function's replica.
func (b *bench) direct() string {
	b.prepare()
	var ip string
	b.must(b.watched.until(b.ctx, "a replica of "+function+" to be ready", func(all map[types.UID]pod) bool {
		for _, p := range all {
			if p.function == function && p.ready {
				ip = p.ip
			}
		}
		return ip != ""
	}))
	return ip + ":8080"
}

// create deploys the measured function's image as another function, and is
// done when the gateway has answered.
func (b *bench) create(name string, labels map[string]string) error {
	b.prepare()
	return b.platform().Client.Create(b.ctx, openfaas.FunctionDeployment{Service: name, Image: b.image, Labels: labels})
}

// remove deletes a function and waits until its pods are gone.
func (b *bench) remove(name string) {
	b.must(b.platform().Client.Delete(b.ctx, openfaas.DefaultNamespace, name))
	b.must(b.watched.gone(b.ctx, name))
}

// cool takes a function to zero replicas and waits until its pods are gone.
func (b *bench) cool(name string) error {
	if err := b.platform().Client.Scale(b.ctx, openfaas.DefaultNamespace, name, 0); err != nil {
		return err
	}
	return b.watched.gone(b.ctx, name)
}

// most cold functions that are used at a time.
const most = 64

// coldLabels are those of a function that starts when it is called.
func coldLabels() map[string]string {
	return map[string]string{"com.openfaas.scale.min": "0", "com.openfaas.scale.max": "1", "com.openfaas.scale.zero": "true"}
}

// colds are the names of n functions at zero replicas.
func (b *bench) colds(n int) []string {
	b.prepare()
	for i := len(b.cold64); i < most; i++ {
		name := fmt.Sprintf("cold-%02d", i)
		b.must(b.create(name, coldLabels()))
		b.cold64 = append(b.cold64, name)
	}
	b.must(b.watched.gone(b.ctx, b.cold64...))
	return b.cold64[:n]
}

// call calls a function through the gateway, for its time in ms.
func (b *bench) call(c *http.Client, name string) (float64, error) {
	start := time.Now()
	err := fetch(b.ctx, c, b.platform().URL+"/function/"+name)
	return ms(time.Since(start)), err
}

func client() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: most}, Timeout: time.Minute}
}

func fetch(ctx context.Context, c *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", url, resp.Status, body)
	}
	return nil
}

// metrics is what the platform tells of itself.
func (b *bench) metrics() (string, error) {
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, b.platform().Metrics+"/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return string(raw), err
}

// objects is a client of the platform's Kubernetes API.
func (b *bench) objects() api.Objects {
	p := b.platform()
	token, err := os.ReadFile(filepath.Join(p.StateDir, "auth", "api-token"))
	b.must(err)
	ca, err := os.ReadFile(filepath.Join(p.StateDir, "auth", "ca.crt"))
	b.must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	b.Cleanup(t.CloseIdleConnections)
	return remote.NewObjects(remote.Config{URL: p.API, Token: strings.TrimSpace(string(token)), Client: &http.Client{Transport: t}})
}

// pod is what is known of one.
type pod struct {
	function, ip string
	ready        bool
	frozen       bool
	from, to     time.Time // when it was seen first, and when it was gone
}

// pods follows the functions' pods by a watch, so that waiting for them costs
// the platform nothing that it would not do anyway.
type pods struct {
	mu   sync.Mutex
	all  map[types.UID]pod
	past []pod         // those that are gone
	turn chan struct{} // closed at each change
	err  error         // why the watch has ended
}

func watchPods(b *bench) *pods {
	w := &pods{all: map[types.UID]pod{}, turn: make(chan struct{})}
	watch, err := b.objects().Watch(b.ctx, api.Pods, api.WatchOptions{Namespace: openfaas.DefaultNamespace})
	b.must(err)
	done := make(chan struct{})
	b.Cleanup(func() { watch.Stop(); <-done })
	go func() {
		defer close(done)
		for e := range watch.Events() {
			if p, ok := e.Object.(*corev1.Pod); ok {
				w.take(e.Type, p)
			}
		}
		w.mu.Lock()
		w.err = fmt.Errorf("the watch of pods has ended: %w", cmp.Or(watch.Err(), context.Canceled))
		close(w.turn)
		w.mu.Unlock()
	}()
	return w
}

func (w *pods) take(t api.EventType, p *corev1.Pod) {
	if t == api.Bookmark {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t == api.Deleted {
		if was, ok := w.all[p.UID]; ok {
			was.to = time.Now()
			w.past = append(w.past, was)
		}
		delete(w.all, p.UID)
	} else {
		next := pod{function: p.Labels[api.LabelFunction], ip: p.Status.PodIP, from: w.all[p.UID].from, frozen: api.IsFrozen(&p.Status)}
		if next.from.IsZero() {
			next.from = time.Now()
		}
		for _, c := range p.Status.Conditions {
			next.ready = next.ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}
		w.all[p.UID] = next
	}
	close(w.turn)
	w.turn = make(chan struct{})
}

// until waits for a condition on all pods, for a minute.
func (w *pods) until(ctx context.Context, what string, ok func(map[types.UID]pod) bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		w.mu.Lock()
		met, turn, err := ok(w.all), w.turn, w.err
		n := len(w.all)
		w.mu.Unlock()
		if met || err != nil {
			return err
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return fmt.Errorf("waited for %s, there are %d pods in all: %w", what, n, ctx.Err())
		}
	}
}

// lived is for how long the pods of each function have been there since from.
func (w *pods) lived(from time.Time) map[string]time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	out, now := map[string]time.Duration{}, time.Now()
	add := func(p pod, to time.Time) {
		if p.from.Before(from) {
			p.from = from
		}
		out[p.function] += max(0, to.Sub(p.from))
	}
	for _, p := range w.past {
		add(p, p.to)
	}
	for _, p := range w.all {
		add(p, now)
	}
	return out
}

// gone waits until there is no pod of these functions.
func (w *pods) gone(ctx context.Context, names ...string) error {
	is := map[string]bool{}
	for _, n := range names {
		is[n] = true
	}
	return w.until(ctx, fmt.Sprintf("the pods of %v to be gone", names), func(all map[types.UID]pod) bool {
		for _, p := range all {
			if is[p.function] {
				return false
			}
		}
		return true
	})
}

// ready waits until so many pods of a function are ready.
func (w *pods) ready(ctx context.Context, name string, n int) error {
	return w.until(ctx, fmt.Sprintf("%d ready pods of %s", n, name), func(all map[types.UID]pod) bool {
		have := 0
		for _, p := range all {
			if p.function == name && p.ready {
				have++
			}
		}
		return have >= n
	})
}

// wanted waits until a function's Deployment asks for so many replicas, which
// a watch that was opened before tells.
func wanted(ctx context.Context, w api.Watch, n int32) error {
	for {
		select {
		case e, ok := <-w.Events():
			if !ok {
				return fmt.Errorf("the watch of deployments has ended: %w", w.Err())
			}
			if d, is := e.Object.(*appsv1.Deployment); is && d.Spec.Replicas != nil && *d.Spec.Replicas >= n {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
