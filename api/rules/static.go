package rules

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// IsMirror tells a pod that only shows a static pod of its node: the node has it from
// a file of its own.
func IsMirror(p *corev1.Pod) bool {
	_, ok := p.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// ValidateStatic finds what a static pod, and so its mirror, may not name: a node runs
// it before it can ask for other objects.
func ValidateStatic(p *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	s := &p.Spec
	var errs field.ErrorList
	no := func(at *field.Path, what string) {
		errs = append(errs, field.Forbidden(at, "a static pod may not reference "+what))
	}
	if s.NodeName == "" {
		errs = append(errs, field.Required(spec.Child("nodeName"), "a mirror pod is one of a node"))
	}
	if s.ServiceAccountName != "" {
		no(spec.Child("serviceAccountName"), "service accounts")
	}
	if len(s.ImagePullSecrets) > 0 {
		no(spec.Child("imagePullSecrets"), "secrets")
	}
	if len(s.ResourceClaims) > 0 {
		no(spec.Child("resourceClaims"), "resource claims")
	}
	for i := range s.Volumes {
		staticVolume(&s.Volumes[i].VolumeSource, spec.Child("volumes").Index(i), no)
	}
	for name, cs := range map[string][]corev1.Container{"initContainers": s.InitContainers, "containers": s.Containers} {
		for i := range cs {
			staticEnv(&cs[i], spec.Child(name).Index(i), no)
		}
	}
	return errs
}

func staticVolume(v *corev1.VolumeSource, at *field.Path, no func(*field.Path, string)) {
	switch {
	case v.Secret != nil:
		no(at.Child("secret"), "secrets")
	case v.ConfigMap != nil:
		no(at.Child("configMap"), "config maps")
	case v.PersistentVolumeClaim != nil:
		no(at.Child("persistentVolumeClaim"), "persistent volume claims")
	case v.Ephemeral != nil:
		no(at.Child("ephemeral"), "persistent volume claims")
	case v.Projected != nil:
		for i, s := range v.Projected.Sources {
			at := at.Child("projected", "sources").Index(i)
			switch {
			case s.Secret != nil:
				no(at.Child("secret"), "secrets")
			case s.ConfigMap != nil:
				no(at.Child("configMap"), "config maps")
			case s.ServiceAccountToken != nil:
				no(at.Child("serviceAccountToken"), "service accounts")
			}
		}
	}
}

func staticEnv(c *corev1.Container, at *field.Path, no func(*field.Path, string)) {
	for i, e := range c.EnvFrom {
		at := at.Child("envFrom").Index(i)
		if e.SecretRef != nil {
			no(at.Child("secretRef"), "secrets")
		}
		if e.ConfigMapRef != nil {
			no(at.Child("configMapRef"), "config maps")
		}
	}
	for i, e := range c.Env {
		at := at.Child("env").Index(i).Child("valueFrom")
		if e.ValueFrom == nil {
			continue
		}
		if e.ValueFrom.SecretKeyRef != nil {
			no(at.Child("secretKeyRef"), "secrets")
		}
		if e.ValueFrom.ConfigMapKeyRef != nil {
			no(at.Child("configMapKeyRef"), "config maps")
		}
	}
}

// ValidateMirrorUpdate holds a pod to being a mirror, or none, for good.
func ValidateMirrorUpdate(p, old *corev1.Pod) field.ErrorList {
	now, is := p.Annotations[corev1.MirrorPodAnnotationKey]
	then, was := old.Annotations[corev1.MirrorPodAnnotationKey]
	if is == was && now == then {
		return nil
	}
	at := field.NewPath("metadata", "annotations").Key(corev1.MirrorPodAnnotationKey)
	return field.ErrorList{field.Forbidden(at, "may not be added, removed or changed: it says that the pod shows a static pod of its node")}
}
