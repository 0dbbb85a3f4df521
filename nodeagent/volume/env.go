package volume

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podsnap/podsnap/api"
)

// Addresses are what a pod learns of the network by fieldRef: the first one of
// each, or all.
type Addresses struct{ Pod, Host []string }

// Env is a container's environment as "K=v", with all references resolved and
// $(NAME) replaced. Values of env come over those of envFrom. A *ConfigError
// says that an object or key is missing.
func (m *Manager) Env(ctx context.Context, p *corev1.Pod, c *corev1.Container, a Addresses) ([]string, error) {
	vars := map[string]string{}
	var order []string
	set := func(k, v string) {
		if _, ok := vars[k]; !ok {
			order = append(order, k)
		}
		vars[k] = v
	}
	for _, kv := range m.server(p) {
		set(kv[0], kv[1])
	}
	links, err := m.links(ctx, p)
	if err != nil {
		return nil, err
	}
	for _, kv := range links {
		set(kv[0], kv[1])
	}
	for _, from := range c.EnvFrom {
		data, err := m.envFrom(ctx, p, from)
		if err != nil {
			return nil, err
		}
		for _, k := range slices.Sorted(maps.Keys(data)) {
			if name := from.Prefix + k; len(validation.IsEnvVarName(name)) == 0 {
				set(name, data[k])
			}
		}
	}
	for i := range c.Env {
		e := &c.Env[i]
		v, ok, err := m.value(ctx, p, c, e, a)
		if err != nil {
			return nil, fmt.Errorf("environment variable %s: %w", e.Name, err)
		}
		if !ok {
			continue
		}
		if e.ValueFrom == nil {
			v = expand(v, vars)
		}
		set(e.Name, v)
	}
	out := make([]string, len(order))
	for i, k := range order {
		out[i] = k + "=" + vars[k]
	}
	return out, nil
}

// server is where the API server is reached, as clients in pods look for it. A
// function reaches it nowhere.
func (m *Manager) server(p *corev1.Pod) [][2]string {
	if !m.c.APIServer.IsValid() || p.Labels[api.LabelFunction] != "" {
		return nil
	}
	host, port := m.c.APIServer.Addr().String(), strconv.Itoa(int(m.c.APIServer.Port()))
	url := "tcp://" + m.c.APIServer.String()
	return [][2]string{
		{"KUBERNETES_SERVICE_HOST", host},
		{"KUBERNETES_SERVICE_PORT", port},
		{"KUBERNETES_SERVICE_PORT_HTTPS", port},
		{"KUBERNETES_PORT", url},
		{"KUBERNETES_PORT_443_TCP", url},
		{"KUBERNETES_PORT_443_TCP_PROTO", "tcp"},
		{"KUBERNETES_PORT_443_TCP_PORT", port},
		{"KUBERNETES_PORT_443_TCP_ADDR", host},
	}
}

func (m *Manager) envFrom(ctx context.Context, p *corev1.Pod, from corev1.EnvFromSource) (map[string]string, error) {
	switch {
	case from.ConfigMapRef != nil:
		obj, err := m.get(ctx, p, api.ConfigMaps, from.ConfigMapRef.Name)
		if err != nil {
			return nil, unless(from.ConfigMapRef.Optional, err)
		}
		return obj.(*corev1.ConfigMap).Data, nil
	case from.SecretRef != nil:
		s, err := m.Secret(ctx, p, from.SecretRef.Name)
		if err != nil {
			return nil, unless(from.SecretRef.Optional, err)
		}
		out := map[string]string{}
		for k, v := range s.Data {
			out[k] = string(v)
		}
		return out, nil
	}
	return nil, nil
}

// value is a variable's value; false when an optional one is missing.
func (m *Manager) value(ctx context.Context, p *corev1.Pod, c *corev1.Container, e *corev1.EnvVar, a Addresses) (string, bool, error) {
	from := e.ValueFrom
	switch {
	case from == nil:
		return e.Value, true, nil
	case from.FieldRef != nil:
		v, err := field(p, from.FieldRef.FieldPath, a)
		return v, true, err
	case from.ResourceFieldRef != nil:
		v, err := m.resourceField(p, c, from.ResourceFieldRef)
		return v, true, err
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		s, err := m.Secret(ctx, p, r.Name)
		if err != nil {
			return "", false, unless(r.Optional, err)
		}
		v, ok := s.Data[r.Key]
		return string(v), ok, missingKey(ok, r.Optional, "secret", r.Name, r.Key)
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		obj, err := m.get(ctx, p, api.ConfigMaps, r.Name)
		if err != nil {
			return "", false, unless(r.Optional, err)
		}
		v, ok := obj.(*corev1.ConfigMap).Data[r.Key]
		return v, ok, missingKey(ok, r.Optional, "configmap", r.Name, r.Key)
	}
	return "", false, configError("the source of its value is not supported")
}

func missingKey(ok bool, optional *bool, kind, name, key string) error {
	if ok || optional != nil && *optional {
		return nil
	}
	return configError("%s %q has no key %q", kind, name, key)
}

// field is a field of a pod by its path.
func field(p *corev1.Pod, path string, a Addresses) (string, error) {
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "metadata.labels":
		return lines(p.Labels), nil
	case "metadata.annotations":
		return lines(p.Annotations), nil
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "status.podIP":
		return first(a.Pod), nil
	case "status.podIPs":
		return strings.Join(a.Pod, ","), nil
	case "status.hostIP":
		return first(a.Host), nil
	case "status.hostIPs":
		return strings.Join(a.Host, ","), nil
	}
	for prefix, set := range map[string]map[string]string{"metadata.labels['": p.Labels, "metadata.annotations['": p.Annotations} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			return set[strings.TrimSuffix(rest, "']")], nil
		}
	}
	return "", configError("fieldPath %q is not supported", path)
}

func first(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

func lines(m map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%s\n", k, strconv.Quote(m[k]))
	}
	return b.String()
}

// resourceField is a request or limit in units of the divisor, rounded up. A limit
// that is not set is what the node has for pods, a request 0.
func (m *Manager) resourceField(p *corev1.Pod, c *corev1.Container, r *corev1.ResourceFieldSelector) (string, error) {
	for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range cs {
			if cs[i].Name == r.ContainerName {
				c = &cs[i]
			}
		}
	}
	kind, name, ok := strings.Cut(r.Resource, ".")
	if c == nil || !ok || kind != "limits" && kind != "requests" {
		return "", configError("resource %q of container %q is not supported", r.Resource, r.ContainerName)
	}
	list := c.Resources.Limits
	if kind == "requests" {
		list = c.Resources.Requests
	}
	q, set := list[corev1.ResourceName(name)]
	if !set && kind == "limits" && m.c.Allocatable != nil {
		q = m.c.Allocatable()[corev1.ResourceName(name)]
	}
	divisor := r.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	n, d := q.Value(), divisor.Value()
	if name == string(corev1.ResourceCPU) {
		n, d = q.MilliValue(), divisor.MilliValue()
	}
	return strconv.FormatInt((n+d-1)/d, 10), nil
}

// Expand replaces $(NAME) in a command's words by the values of env ("K=v").
// "$$" is a "$", and a name that is not there stays as it is.
func Expand(words, env []string) []string {
	vars := map[string]string{}
	for _, e := range env {
		k, v, _ := strings.Cut(e, "=")
		vars[k] = v
	}
	var out []string
	for _, w := range words {
		out = append(out, expand(w, vars))
	}
	return out
}

func expand(s string, vars map[string]string) string {
	if !strings.ContainsRune(s, '$') {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
			continue
		case '(':
			if name, _, ok := strings.Cut(s[i+2:], ")"); ok {
				v, known := vars[name]
				if !known {
					v = "$(" + name + ")"
				}
				b.WriteString(v)
				i += len(name) + 2
				continue
			}
		}
		b.WriteByte('$')
	}
	return b.String()
}
