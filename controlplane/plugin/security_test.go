package plugin_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/access"
)

func namespace(kv ...string) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "d", Labels: map[string]string{}}}
	for i := 0; i < len(kv); i += 2 {
		ns.Labels["pod-security.kubernetes.io/"+kv[i]] = kv[i+1]
	}
	return ns
}

func (r *rig) relabel(ctx context.Context, kv ...string) error {
	ns := namespace(kv...)
	_, err := api.Mutate(ctx, r.Objects, api.Namespaces, "", ns.Name, api.UpdateOptions{}, func(now *corev1.Namespace) (bool, error) {
		now.Labels = ns.Labels
		return true, nil
	})
	return err
}

// What a namespace's labels ask for is what its pods are held to, from the label on.
func TestPodSecurity(t *testing.T) {
	var log bytes.Buffer
	runWith(t, slog.New(slog.NewTextHandler(&log, nil)), func(t *testing.T, r *rig) {
		r.make(namespace(), pod("before", nil, nil))
		var warnings []string
		ctx := rules.Warned(access.With(t.Context(), access.User{Name: "jane"}), func(text string) { warnings = append(warnings, text) })
		said := func() string {
			s := strings.Join(warnings, "\n")
			warnings = nil
			return s
		}
		for _, kv := range [][]string{{"enforce", "none"}, {"warn-version", "1.30"}} {
			if err := r.relabel(ctx, kv...); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "pod-security.kubernetes.io/"+kv[0]) {
				t.Errorf("the label %v: %v", kv, err)
			}
		}
		if err := r.relabel(ctx, "enforce", "restricted"); err != nil {
			t.Fatal(err)
		}
		if got := said(); !strings.Contains(got, `existing pods in namespace "d" violate the new PodSecurity enforce level "restricted:latest"`) || !strings.Contains(got, "before: allowPrivilegeEscalation != false, ") {
			t.Errorf("the label: %s", got)
		}
		const why = `pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false)`
		if got := r.refused(pod("p", nil, nil)); !strings.Contains(got, why) {
			t.Errorf("a pod: %s", got)
		}
		if err := r.dry(ctx, rules.OpCreate, api.Pods, nil, pod("p", nil, nil), ""); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("a dry run: %v", err)
		}
		if got := said(); got != "" {
			t.Errorf("who is refused is warned as well: %s", got)
		}
		d := &appsv1.Deployment{ObjectMeta: meta("web"), Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: pod("", nil, nil).Spec},
		}}
		if _, err := r.Create(ctx, d); err != nil {
			t.Errorf("a Deployment: %v", err)
		}
		if got := said(); !strings.Contains(got, `would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false`) {
			t.Errorf("a Deployment: %s", got)
		}

		// What has been let in goes on, but gets no container that would not be.
		label := func(p *corev1.Pod) (bool, error) {
			p.Labels = map[string]string{"x": "y"}
			return true, nil
		}
		if _, err := api.Mutate(ctx, r.Objects, api.Pods, "d", "before", api.UpdateOptions{}, label); err != nil {
			t.Errorf("a label of a pod that is there: %v", err)
		}
		debug := func(p *corev1.Pod) (bool, error) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "i"}}}
			return true, nil
		}
		_, err := api.Mutate(ctx, r.Objects, api.Pods, "d", "before", api.UpdateOptions{Subresource: "ephemeralcontainers"}, debug)
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `containers "c", "debug" must set`) {
			t.Errorf("an ephemeral container: %v", err)
		}

		if err := r.relabel(ctx, "enforce", "baseline", "audit", "restricted"); err != nil || said() != "" {
			t.Errorf("less than before: %v", err)
		}
		if _, err := r.Create(ctx, pod("p", nil, nil)); err != nil {
			t.Error(err)
		}
		if got := said(); got != "" {
			t.Errorf("the audit warns: %s", got)
		}
	})
	for _, w := range []string{`resource=pods`, `name=p`, `user=jane`, `would violate PodSecurity \"restricted:latest\"`} {
		if !strings.Contains(log.String(), w) {
			t.Errorf("%s is missing in the log:\n%s", w, log.String())
		}
	}
}
