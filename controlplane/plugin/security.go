package plugin

import (
	"context"
	"errors"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/podsecurity"
)

// secure holds pods, and what makes pods, to what the labels of their namespace ask
// for. The namespace is asked for itself, not a copy that may be behind: a pod that
// is made after the label is judged by it. That is a look into the store's cache.
func (p *Plugins) secure(ctx context.Context, r *api.Resource, old, obj api.Object) error {
	if ns, ok := obj.(*corev1.Namespace); ok {
		return p.relabelled(ctx, old, ns)
	}
	t, ok := rules.TemplateOf(obj)
	if !ok {
		return nil
	}
	pod, isPod := obj.(*corev1.Pod)
	if was, ok := old.(*corev1.Pod); ok && isPod && !podsecurity.Matters(was, pod) {
		return nil
	}
	ns, err := api.Get[*corev1.Namespace](ctx, p.store(), api.Namespaces, "", obj.GetNamespace())
	if apierrors.IsNotFound(err) {
		return nil // the store says so
	}
	if err != nil {
		return err
	}
	policy, asks := podsecurity.Of(ns.Labels)
	if !asks {
		return nil
	}
	v := podsecurity.Judge(policy, t, isPod)
	if v.Audit != "" {
		p.c.Log.InfoContext(ctx, "pod security", slog.String("resource", r.GR().String()), slog.String("namespace", obj.GetNamespace()), slog.String("name", nameOf(obj)), slog.String("user", access.Of(ctx).Name), slog.String("audit", v.Audit))
	}
	if v.Refused != "" {
		return apierrors.NewForbidden(r.GR(), obj.GetName(), errors.New(v.Refused))
	}
	if v.Warning != "" {
		rules.Warn(ctx, v.Warning)
	}
	return nil
}

// relabelled warns of the pods that a namespace has and would not get any more.
func (p *Plugins) relabelled(ctx context.Context, old api.Object, ns *corev1.Namespace) error {
	was, ok := old.(*corev1.Namespace)
	if !ok || !podsecurity.Stricter(was.Labels, ns.Labels) {
		return nil
	}
	objects := p.store()
	if objects == nil {
		return nil // nobody has been let in yet
	}
	pods, err := api.Items[*corev1.Pod](ctx, objects, api.Pods, api.ListOptions{Namespace: ns.Name})
	if err != nil {
		rules.Warn(ctx, "the existing pods could not be checked against the new PodSecurity enforce level: "+err.Error())
		return nil
	}
	begin := time.Now()
	for _, text := range podsecurity.Existing(ns.Name, ns.Labels, pods, func() bool { return time.Since(begin) > podsecurity.ExistingTime }) {
		rules.Warn(ctx, text)
	}
	return nil
}

// nameOf is what an object will be called, as far as it is known.
func nameOf(obj api.Object) string {
	if n := obj.GetName(); n != "" {
		return n
	}
	return obj.GetGenerateName()
}

func (p *Plugins) store() api.Objects {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.objects
}
