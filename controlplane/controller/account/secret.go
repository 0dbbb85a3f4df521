package account

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/loop"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// Secrets fills in those of the type kubernetes.io/service-account-token: a token of
// the account that the annotation names, which counts as long as the Secret is there,
// and by what else the API server is found. Those whose account is not there are
// deleted.
type Secrets struct {
	c    SecretsConfig
	loop *loop.Loop[types.NamespacedName]
}

// SecretsConfig says what the controller works with.
type SecretsConfig struct {
	Config
	// Token makes the token of an account that stands in a Secret.
	Token func(s *corev1.Secret, of *corev1.ServiceAccount) (string, error)
}

const byAccount = "service account"

// NewSecrets makes a controller and has the view's mirrors tell it of changes: to be
// called before the view runs.
func NewSecrets(c SecretsConfig) *Secrets {
	r := &Secrets{c: c}
	r.loop = loop.New(loop.Config{Name: "token", Log: c.Log, Metrics: c.Metrics}, r.reconcile)
	c.View.Secrets.Index(byAccount, func(s *corev1.Secret) []string {
		if s.Type != corev1.SecretTypeServiceAccountToken {
			return nil
		}
		return []string{s.Namespace + "/" + accountOf(s)}
	})
	c.View.Secrets.OnChange(func(t api.EventType, _, now *corev1.Secret) {
		if t != api.Deleted && now.Type == corev1.SecretTypeServiceAccountToken {
			r.loop.Add(types.NamespacedName{Namespace: now.Namespace, Name: now.Name})
		}
	})
	c.View.ServiceAccounts.OnChange(func(t api.EventType, old, _ *corev1.ServiceAccount) {
		if t != api.Deleted {
			return
		}
		for _, s := range c.View.Secrets.By(byAccount, old.Namespace+"/"+old.Name) {
			r.loop.Add(types.NamespacedName{Namespace: s.Namespace, Name: s.Name})
		}
	})
	return r
}

// Run works until ctx is done and returns nil then.
func (r *Secrets) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func accountOf(s *corev1.Secret) string { return s.Annotations[corev1.ServiceAccountNameKey] }

func (r *Secrets) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	s, ok := r.c.View.Secrets.Get(key.Namespace, key.Name)
	if !ok || s.DeletionTimestamp != nil {
		return 0, nil
	}
	// The mirrors are filled independently: that of accounts may be behind.
	sa, err := api.Get[*corev1.ServiceAccount](ctx, r.c.Objects, api.ServiceAccounts, s.Namespace, accountOf(s))
	uid := s.Annotations[corev1.ServiceAccountUIDKey]
	switch {
	case apierrors.IsNotFound(err), err == nil && uid != "" && uid != string(sa.UID):
		r.c.Log.InfoContext(ctx, "token of a service account that is not there deleted", slog.String("secret", key.String()), slog.String("account", accountOf(s)))
		_, err := r.c.Objects.Delete(ctx, api.Secrets, s.Namespace, s.Name, api.DeleteOptions{UID: s.UID})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return 0, fmt.Errorf("delete Secret %s: %w", key, err)
		}
		return 0, nil
	case err != nil:
		return 0, err
	}
	_, err = api.Mutate(ctx, r.c.Objects, api.Secrets, s.Namespace, s.Name, api.UpdateOptions{}, func(now *corev1.Secret) (bool, error) {
		if now.UID != s.UID {
			return false, nil
		}
		return r.fill(now, sa)
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("fill Secret %s: %w", key, err)
	}
	return 0, nil
}

// fill puts into a Secret of the caller's own what it lacks, and tells whether that
// was anything.
func (r *Secrets) fill(s *corev1.Secret, sa *corev1.ServiceAccount) (bool, error) {
	want := map[string][]byte{corev1.ServiceAccountNamespaceKey: []byte(s.Namespace)}
	if r.c.Authority != "" {
		want[corev1.ServiceAccountRootCAKey] = []byte(r.c.Authority)
	}
	if len(s.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := r.c.Token(s, sa)
		if err != nil {
			return false, err
		}
		want[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	changed := s.Annotations[corev1.ServiceAccountUIDKey] != string(sa.UID)
	s.Annotations[corev1.ServiceAccountUIDKey] = string(sa.UID) // one is there: it names the account
	for k, v := range want {
		changed = changed || string(s.Data[k]) != string(v)
	}
	if s.Data == nil {
		s.Data = map[string][]byte{}
	}
	maps.Copy(s.Data, want)
	return changed, nil
}
