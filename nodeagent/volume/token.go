package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
)

// When tokens are renewed: after so much of their lives, or a day; and how long it is
// until a renewal that has failed is tried again.
const (
	renewAfter = 0.8
	renewDaily = 24 * time.Hour
	renewAgain = 15 * time.Second
	renewTime  = 5 * time.Second // one takes at most
	idle       = 24 * time.Hour  // a look where no pod has tokens
)

// tokens are those in the volumes of pods that are here.
type tokens struct {
	mu   sync.Mutex
	pods map[types.UID]*holder
	wake chan struct{} // of one place: a pod has come
}

// holder is a pod with tokens.
type holder struct {
	pod  *corev1.Pod
	have map[string]issued // by what is asked for; of who holds the pod (Manager.hold)
	next time.Time         // when it has to be looked at; zero is never. Guarded by tokens.mu
}

// issued is a token.
type issued struct {
	text    string
	due     time.Time // from then on another one is asked for
	expires time.Time
}

// hasTokens tells whether a pod has a volume with a token.
func hasTokens(p *corev1.Pod) bool {
	for i := range p.Spec.Volumes {
		if withToken(&p.Spec.Volumes[i]) {
			return true
		}
	}
	return false
}

func withToken(v *corev1.Volume) bool {
	if v.Projected == nil {
		return false
	}
	for i := range v.Projected.Sources {
		if v.Projected.Sources[i].ServiceAccountToken != nil {
			return true
		}
	}
	return false
}

// holder is that of a pod, which it makes.
func (t *tokens) holder(p *corev1.Pod) *holder {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.pods[p.UID]
	if h == nil {
		h = &holder{pod: p, have: map[string]issued{}}
		t.pods[p.UID] = h
	}
	return h
}

// drop forgets a pod.
func (t *tokens) drop(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pods, uid)
}

// holds tells whether a holder is still a pod's.
func (t *tokens) holds(h *holder) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pods[h.pod.UID] == h
}

// schedule says when a pod is to be looked at.
func (t *tokens) schedule(h *holder, at time.Time) {
	t.mu.Lock()
	h.next = at
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// earliest is the pod that has to be looked at first; nil is none.
func (t *tokens) earliest() (first *holder, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.pods {
		if !h.next.IsZero() && (first == nil || h.next.Before(at)) {
			first, at = h, h.next
		}
	}
	return first, at
}

// Adopt has the tokens of a pod renewed that a former process has started.
func (m *Manager) Adopt(p *corev1.Pod) {
	if m.c.Tokens != nil && hasTokens(p) {
		m.tokens.schedule(m.tokens.holder(p), time.Now())
	}
}

// Run renews tokens before they expire, until ctx is done; nil then.
func (m *Manager) Run(ctx context.Context) error {
	for {
		h, at := m.tokens.earliest()
		wait := idle
		if h != nil {
			wait = time.Until(at)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-m.tokens.wake:
			t.Stop()
		case <-t.C:
			if h != nil {
				m.renew(ctx, h)
			}
		}
	}
}

// renew puts new tokens into a pod's volumes, if it still has any.
func (m *Manager) renew(ctx context.Context, h *holder) {
	short, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	defer m.hold(h.pod.UID)()
	if !m.tokens.holds(h) {
		return
	}
	dir, err := m.dir(h.pod.UID)
	for i := range h.pod.Spec.Volumes {
		v := &h.pod.Spec.Volumes[i]
		if err != nil || !withToken(v) {
			continue
		}
		if _, missing := os.Stat(filepath.Join(dir, base(v), v.Name)); errors.Is(missing, fs.ErrNotExist) {
			continue // it has never been set up
		}
		err = m.setup(short, h.pod, v, dir)
	}
	if err != nil && ctx.Err() == nil {
		m.c.Log.Warn("tokens of a pod were not renewed", slog.String("pod", h.pod.Namespace+"/"+h.pod.Name), slog.Any("error", err))
	}
	m.tokens.schedule(h, h.due(err))
}

// due is when the first token has to be renewed, or a failed renewal tried again.
func (h *holder) due(failed error) (at time.Time) {
	if failed != nil {
		return time.Now().Add(renewAgain)
	}
	for _, t := range h.have {
		if at.IsZero() || t.due.Before(at) {
			at = t.due
		}
	}
	if !at.IsZero() {
		at = later(at, time.Now().Add(time.Second)) // one that came of an outage is old already
	}
	return at
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// token is a pod's token for a volume: the one that it has, or a new one when that
// has to be renewed. While none is to be had the old one serves until it expires. The
// pod is held.
func (m *Manager) token(ctx context.Context, p *corev1.Pod, t *corev1.ServiceAccountTokenProjection) (string, error) {
	if m.c.Tokens == nil {
		return "", configError("this node hands out no tokens of service accounts")
	}
	life := int64(3600)
	if t.ExpirationSeconds != nil {
		life = *t.ExpirationSeconds
	}
	h, key := m.tokens.holder(p), t.Audience+" "+strconv.FormatInt(life, 10)
	now := time.Now()
	old, ok := h.have[key]
	if ok && now.Before(old.due) {
		return old.text, nil
	}
	q := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &life,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID},
	}}
	if t.Audience != "" {
		q.Spec.Audiences = []string{t.Audience}
	}
	account := p.Spec.ServiceAccountName
	if account == "" {
		account = api.DefaultAccount
	}
	got, err := m.c.Tokens.Issue(ctx, p.Namespace, account, q)
	switch {
	case err == nil:
	case ok && now.Before(old.expires):
		m.c.Log.Warn("a token was not renewed; the old one serves", slog.String("pod", p.Namespace+"/"+p.Name), slog.Any("error", err))
		return old.text, nil
	case apierrors.IsNotFound(err):
		return "", configError("token of service account %q: %w", account, err)
	default:
		return "", fmt.Errorf("token of service account %q: %w", account, err)
	}
	expires := got.Status.ExpirationTimestamp.Time
	wait := min(time.Duration(float64(expires.Sub(now))*renewAfter), renewDaily)
	h.have[key] = issued{text: got.Status.Token, due: now.Add(wait), expires: expires}
	return got.Status.Token, nil
}
