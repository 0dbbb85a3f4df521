package controller_test

import (
	"fmt"
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A Secret that is to have an account's token gets it, once, and goes with the account.
func TestTokenSecrets(t *testing.T) {
	made := 0
	token := func(s *corev1.Secret, of *corev1.ServiceAccount) (string, error) {
		made++
		return fmt.Sprintf("%s of %s %d", s.Name, of.Name, made), nil
	}
	start(t, controller.Config{Authority: "ca", Token: token}, func(c *cluster) {
		secret := func(name, account string) *corev1.Secret {
			return &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: account}},
				Type:       corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"more": []byte("m")},
			}
		}
		has := func(name, want string) func() error {
			return func() error {
				s, err := api.Get[*corev1.Secret](t.Context(), c, api.Secrets, "default", name)
				if err != nil {
					return err
				}
				if got := fmt.Sprintf("%s|%s|%s|%s", s.Data["token"], s.Data["ca.crt"], s.Data["namespace"], s.Data["more"]); got != want {
					return fmt.Errorf("secret %s: %s, want %s", name, got, want)
				}
				return nil
			}
		}
		gone := func(name string) func() error {
			return func() error {
				if _, err := c.Get(t.Context(), api.Secrets, "default", name); err == nil {
					return fmt.Errorf("secret %s is there", name)
				}
				return nil
			}
		}
		edit := func(name string, f func(*corev1.Secret)) {
			t.Helper()
			_, err := api.Mutate(t.Context(), c, api.Secrets, "default", name, api.UpdateOptions{}, func(s *corev1.Secret) (bool, error) {
				f(s)
				return true, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range []string{"bot", "other"} {
			c.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: n}})
		}
		c.create(secret("a", "bot"))
		c.eventually("a is filled", has("a", "a of bot 1|ca|default|m"))
		c.create(secret("b", "other"))
		c.eventually("b is filled", has("b", "b of other 2|ca|default|m"))
		c.create(secret("nobodys", "none"))
		c.eventually("there is no account", gone("nobodys"))

		edit("a", func(s *corev1.Secret) { s.Data["ca.crt"], s.Data["namespace"] = nil, []byte("x") })
		c.eventually("a is mended", has("a", "a of bot 1|ca|default|m"))
		edit("a", func(s *corev1.Secret) { delete(s.Data, "token") })
		c.eventually("a has another token", has("a", "a of bot 3|ca|default|m"))

		if _, err := c.Delete(t.Context(), api.ServiceAccounts, "default", "bot", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("a goes with the account", gone("a"))
		c.eventually("b stays", has("b", "b of other 2|ca|default|m"))
	})
}
