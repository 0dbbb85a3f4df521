package account

import (
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A token in a Secret counts for years, and until the Secret or the account goes.
func TestLasting(t *testing.T) {
	secret := func(name string) *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: "bot"}},
			Type:       corev1.SecretTypeServiceAccountToken,
		}
	}
	for name, c := range map[string]struct {
		revoke func(t *testing.T, r *rig)
		works  bool
	}{
		"years later":           {func(_ *testing.T, r *rig) { r.now = r.now.AddDate(20, 0, 0) }, true},
		"another account's end": {func(t *testing.T, r *rig) { r.remove(t, api.ServiceAccounts, "other") }, true},
		"the Secret's end":      {func(t *testing.T, r *rig) { r.remove(t, api.Secrets, "s") }, false},
		"the account's end":     {func(t *testing.T, r *rig) { r.remove(t, api.ServiceAccounts, "bot") }, false},
		"an account of the same name": {func(t *testing.T, r *rig) {
			r.remove(t, api.ServiceAccounts, "bot")
			r.create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "bot"}})
		}, false},
		"another token in the Secret": {func(t *testing.T, r *rig) {
			_, err := api.Mutate(t.Context(), r.objects, api.Secrets, "ns", "s", api.UpdateOptions{}, func(s *corev1.Secret) (bool, error) {
				s.Data["token"] = []byte("x")
				return true, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			sa, err := api.Get[*corev1.ServiceAccount](t.Context(), r.objects, api.ServiceAccounts, "ns", "bot")
			if err != nil {
				t.Fatal(err)
			}
			s := secret("s")
			token, err := r.Lasting(s, sa)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.User(t.Context(), token); !apierrors.IsUnauthorized(err) {
				t.Errorf("before it stands in the Secret: %v", err)
			}
			s.Data = map[string][]byte{"token": []byte(token)}
			r.create(t, s)
			if u, err := r.User(t.Context(), token); err != nil || u.Name != "system:serviceaccount:ns:bot" || u.UID != string(sa.UID) || len(u.Groups) != 2 {
				t.Fatalf("%+v, %v", u, err)
			}
			if _, _, err := r.Review(t.Context(), token, []string{"elsewhere"}); !apierrors.IsUnauthorized(err) {
				t.Errorf("for somebody else: %v", err)
			}
			c.revoke(t, r)
			if _, err := r.User(t.Context(), token); (err == nil) != c.works || err != nil && !apierrors.IsUnauthorized(err) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	r := newRig(t)
	forged, err := jwt.NewWithClaims(jwt.SigningMethodHS256, lasting{RegisteredClaims: jwt.RegisteredClaims{Issuer: LastingIssuer}, Namespace: "ns", Secret: "s", Account: "bot"}).SignedString([]byte("k"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.User(t.Context(), forged); !apierrors.IsUnauthorized(err) {
		t.Errorf("a forged one: %v", err)
	}
}

func (r *rig) remove(t *testing.T, of *api.Resource, name string) {
	t.Helper()
	if _, err := r.objects.Delete(t.Context(), of, "ns", name, api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}
