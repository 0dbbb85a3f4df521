package pullsecret_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/nodeagent/pullsecret"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

func secret(kind corev1.SecretType, key, text string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "s"}, Type: kind, Data: map[string][]byte{key: []byte(text)}}
}

func TestLogins(t *testing.T) {
	const config, cfg = corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockercfg
	for _, c := range []struct {
		s    *corev1.Secret
		want []runtime.Login
	}{
		{
			secret(config, corev1.DockerConfigJsonKey, `{"auths":{"https://index.docker.io/v1/":{"auth":"YTpiOmM="},"r.test:5000":{"username":"u","password":"p","email":"x"}}}`),
			[]runtime.Login{{Scope: "r.test:5000", User: "u", Password: "p"}, {Scope: "docker.io", User: "a", Password: "b:c"}},
		},
		{
			secret(config, corev1.DockerConfigJsonKey, `{"auths":{"r.test":{"username":"all"},"r.test/team/":{"username":"team"},"*.r.test":{"username":"any"}}}`),
			[]runtime.Login{{Scope: "r.test/team", User: "team"}, {Scope: "r.test", User: "all"}, {Scope: "*.r.test", User: "any"}},
		},
		{secret(cfg, corev1.DockerConfigKey, `{"http://r.test/v2":{"username":"u"}}`), []runtime.Login{{Scope: "r.test", User: "u"}}},
		{secret(config, corev1.DockerConfigJsonKey, `{}`), []runtime.Login{}},
	} {
		got, err := pullsecret.Logins(c.s)
		if d := cmp.Diff(c.want, got); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", c.s.Data, err, d)
		}
	}
	for want, s := range map[string]*corev1.Secret{
		"it must be":      secret(corev1.SecretTypeOpaque, "x", ""),
		"unexpected end":  secret(config, corev1.DockerConfigJsonKey, ""),
		"auth of r.test:": secret(config, corev1.DockerConfigJsonKey, `{"auths":{"r.test":{"auth":"?"}}}`),
		"cannot unmarsha": secret(cfg, corev1.DockerConfigKey, `{"a":1}`),
	} {
		if _, err := pullsecret.Logins(s); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "d/s") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
