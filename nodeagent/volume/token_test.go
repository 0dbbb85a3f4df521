package volume

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/test/bubble"
)

// desk numbers the tokens that it hands out.
type desk struct {
	mu   sync.Mutex
	made int
	fail error
	last *authenticationv1.TokenRequest
}

func (d *desk) Issue(_ context.Context, namespace, account string, q *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return nil, d.fail
	}
	d.made++
	d.last = q
	out := q.DeepCopy()
	out.Status.Token = fmt.Sprintf("%s/%s %d", namespace, account, d.made)
	out.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Duration(*q.Spec.ExpirationSeconds) * time.Second))
	return out, nil
}

func (d *desk) set(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

func podWithToken(audience string) *corev1.Pod {
	p := podWith(corev1.Volume{Name: "t", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: audience, ExpirationSeconds: new(int64(1000))}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
	}}}})
	p.Spec.ServiceAccountName = "bot"
	return p
}

// TestTokenIsRenewed follows a token through its life: renewed before it expires, kept
// while none is to be had, and gone with the pod.
func TestTokenIsRenewed(t *testing.T) {
	d := &desk{}
	m, root := manager(t, &objects{})
	m.c.Tokens, m.c.OnDisk = d, true
	p := podWithToken("vault")
	read := func() string {
		b, err := os.ReadFile(filepath.Join(root, "u1/secrets/t/token"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	bubble.Test(t, func(t *testing.T) {
		m.tokens.wake = make(chan struct{}, 1) // of the bubble
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		if err := m.Setup(ctx, p); err != nil {
			t.Fatal(err)
		}
		if q := d.last; read() != "ns/bot 1" || q.Spec.BoundObjectRef.UID != "u1" || !slices.Equal(q.Spec.Audiences, []string{"vault"}) {
			t.Fatalf("the first token is %q of %+v", read(), q.Spec)
		}
		at := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := read(); got != want {
				t.Errorf("after %v more the token is %q, want %q", after, got, want)
			}
		}
		at(790*time.Second, "ns/bot 1")
		if err := m.Setup(ctx, p); err != nil { // a container starts anew
			t.Fatal(err)
		}
		at(0, "ns/bot 1")
		at(11*time.Second, "ns/bot 2")
		d.set(apierrors.NewServiceUnavailable("away"))
		at(900*time.Second, "ns/bot 2")
		d.set(nil)
		at(16*time.Second, "ns/bot 3")
		if err := m.Remove("u1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if _, err := os.Stat(filepath.Join(root, "u1")); !errors.Is(err, os.ErrNotExist) || d.made != 3 {
			t.Errorf("after the pod: %v, %d tokens", err, d.made)
		}
		// What a former process has set up is renewed as soon as it is known.
		if err := m.Setup(ctx, p); err != nil {
			t.Fatal(err)
		}
		m.tokens.drop("u1")
		time.Sleep(time.Second) // versions are named by the time
		m.Adopt(p)
		at(0, "ns/bot 5")
		cancel()
		<-done
	})
}

func TestTokenThatCannotBeHad(t *testing.T) {
	d := &desk{fail: apierrors.NewNotFound(api.ServiceAccounts.GR(), "bot")}
	m, _ := manager(t, &objects{})
	var ce *ConfigError
	if err := m.Setup(t.Context(), podWithToken("")); !errors.As(err, &ce) {
		t.Errorf("without a desk: %v", err)
	}
	m.c.Tokens = d
	t.Cleanup(func() { _ = m.Remove("u1") })
	if err := m.Setup(t.Context(), podWithToken("")); !errors.As(err, &ce) || !strings.Contains(err.Error(), `service account "bot"`) {
		t.Errorf("of no account: %v", err)
	}
	d.set(apierrors.NewServiceUnavailable("away"))
	if err := m.Setup(t.Context(), podWithToken("")); err == nil || errors.As(err, &ce) {
		t.Errorf("while nobody answers: %v", err)
	}
}

// TestEnvOfServer tells pods where the API is, and functions not.
func TestEnvOfServer(t *testing.T) {
	m, _ := manager(t, &objects{})
	m.c.APIServer = netip.MustParseAddrPort("10.96.0.1:443")
	p := podWith()
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "KUBERNETES_SERVICE_PORT", Value: "1"}, {Name: "URL", Value: "$(KUBERNETES_SERVICE_HOST)"}}
	env, err := m.Env(t.Context(), p, &p.Spec.Containers[0], Addresses{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=1", "KUBERNETES_PORT=tcp://10.96.0.1:443", "URL=10.96.0.1"} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is missing in %q", want, env)
		}
	}
	p.Labels[api.LabelFunction] = "f"
	if env, err = m.Env(t.Context(), p, &p.Spec.Containers[0], Addresses{}); err != nil || len(env) != 2 {
		t.Errorf("a function has %q, %v", env, err)
	}
}
