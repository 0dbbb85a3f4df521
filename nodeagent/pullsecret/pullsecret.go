// Package pullsecret reads who one is at registries of images from the Secrets that
// pods name in imagePullSecrets.
package pullsecret

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// auth is an entry of docker's configuration file.
type auth struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Auth     string `json:"auth"` // user:password in base64; instead of both
}

// Logins are those of a Secret of the type kubernetes.io/dockerconfigjson or
// kubernetes.io/dockercfg, those for the narrowest part of a registry first. Any other
// Secret is an error.
func Logins(s *corev1.Secret) ([]runtime.Login, error) {
	var file struct {
		Auths map[string]auth `json:"auths"`
	}
	var err error
	switch s.Type {
	case corev1.SecretTypeDockerConfigJson:
		err = json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &file)
	case corev1.SecretTypeDockercfg:
		err = json.Unmarshal(s.Data[corev1.DockerConfigKey], &file.Auths)
	default:
		return nil, fmt.Errorf("secret %s/%s is of type %q: it must be %s or %s", s.Namespace, s.Name, s.Type, corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockercfg)
	}
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", s.Namespace, s.Name, err)
	}
	out := make([]runtime.Login, 0, len(file.Auths))
	for where, a := range file.Auths {
		l := runtime.Login{Scope: scopeOf(where), User: a.Username, Password: a.Password}
		if a.Auth != "" {
			text, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return nil, fmt.Errorf("secret %s/%s: auth of %s: %w", s.Namespace, s.Name, where, err)
			}
			l.User, l.Password, _ = strings.Cut(string(text), ":")
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b runtime.Login) int { return strings.Compare(b.Scope, a.Scope) })
	return out, nil
}

// scopeOf is the part of the world that an entry is for, as Kubernetes reads it: its
// key may be an address of the API, and docker's own registry has an old name.
func scopeOf(key string) string {
	_, rest, ok := strings.Cut(key, "://")
	if !ok {
		rest = key
	}
	rest = strings.TrimSuffix(rest, "/")
	for _, version := range []string{"/v1", "/v2"} {
		rest = strings.TrimSuffix(rest, version)
	}
	host, path, deep := strings.Cut(rest, "/")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	if !deep {
		return host
	}
	return host + "/" + path
}
