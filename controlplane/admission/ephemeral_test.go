package admission

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

func TestEphemeralContainers(t *testing.T) {
	const with = pod + `
  ephemeralContainers:
  - {name: kept, image: "img:1"}
`
	for name, c := range map[string]struct {
		old, next string
		want      []string
	}{
		"added":         {pod, with, nil},
		"with a target": {pod, pod + "\n  ephemeralContainers: [{name: a, image: i, targetContainerName: c, stdin: true, tty: true}]", nil},
		"removed":       {with, pod, []string{"spec.ephemeralContainers: Forbidden"}},
		"changed":       {with, pod + "\n  ephemeralContainers: [{name: kept, image: other}]", []string{"spec.ephemeralContainers: Forbidden"}},
		"same name":     {pod, pod + "\n  ephemeralContainers: [{name: c, image: i}]", []string{"spec.ephemeralContainers[0].name: Duplicate"}},
		"no target":     {pod, pod + "\n  ephemeralContainers: [{name: a, image: i, targetContainerName: x}]", []string{"spec.ephemeralContainers[0].targetContainerName: NotFound"}},
		"ports":         {pod, pod + "\n  ephemeralContainers: [{name: a, image: i, ports: [{containerPort: 80}]}]", []string{"spec.ephemeralContainers[0].ports: Forbidden"}},
		"resources":     {pod, pod + "\n  ephemeralContainers: [{name: a, image: i, resources: {limits: {cpu: 1}}}]", []string{"spec.ephemeralContainers[0].resources: Forbidden"}},
		"no image":      {pod, pod + "\n  ephemeralContainers: [{name: a}]", []string{"spec.ephemeralContainers[0].image: Required"}},
	} {
		t.Run(name, func(t *testing.T) {
			old, next := read(t, api.Pods, c.old), read(t, api.Pods, c.next)
			Default(old)
			err := Admit(t.Context(), rules.OpUpdate, api.Pods, old, next, "ephemeralcontainers")
			if d := cmp.Diff(c.want, causes(t, err)); d != "" {
				t.Errorf("-want +got:\n%s%v", d, err)
			}
		})
	}
	err := Admit(t.Context(), rules.OpCreate, api.Pods, nil, read(t, api.Pods, with), "")
	if d := cmp.Diff([]string{"spec.ephemeralContainers: Forbidden"}, causes(t, err)); d != "" {
		t.Errorf("on create, -want +got:\n%s", d)
	}
	p := read(t, api.Pods, with).(*corev1.Pod)
	Default(p)
	if got := p.Spec.EphemeralContainers[0].ImagePullPolicy; got != corev1.PullIfNotPresent {
		t.Errorf("pull policy %q", got)
	}
}
