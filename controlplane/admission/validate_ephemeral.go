package admission

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateEphemeral checks the ephemeral containers that a pod gets: they may be
// added to, and have none of what makes a container a lasting part of its pod.
func validateEphemeral(p, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	all := field.NewPath("spec", "ephemeralContainers")
	_, volumes := validateVolumes(p.Spec.Volumes, field.NewPath("spec", "volumes"))
	names := sets.New[string]()
	for _, c := range containers(&p.Spec) {
		names.Insert(c.Name)
	}
	targets := names.Clone()
	kept := map[string]*corev1.EphemeralContainer{}
	for i := range p.Spec.EphemeralContainers {
		e, at := &p.Spec.EphemeralContainers[i], all.Index(i)
		kept[e.Name] = e
		c := (*corev1.Container)(&e.EphemeralContainerCommon)
		switch {
		case c.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case names.Has(c.Name):
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		default:
			errs = append(errs, invalid(at.Child("name"), c.Name, validation.IsDNS1123Label(c.Name))...)
		}
		names.Insert(c.Name)
		if t := e.TargetContainerName; t != "" && !targets.Has(t) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), t))
		}
		errs = append(errs, validateContainer(c, volumes, at)...)
		errs = append(errs, lasting(c, at)...)
	}
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		switch now := kept[was.Name]; {
		case now == nil:
			errs = append(errs, field.Forbidden(all, "existing ephemeral containers "+was.Name+" may not be removed"))
		case !equality.Semantic.DeepEqual(was, now):
			errs = append(errs, field.Forbidden(all, "existing ephemeral containers "+was.Name+" may not be changed"))
		}
	}
	return errs
}

// lasting finds the fields that an ephemeral container must not have.
func lasting(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, set := range map[string]bool{
		"ports": len(c.Ports) > 0, "livenessProbe": c.LivenessProbe != nil, "readinessProbe": c.ReadinessProbe != nil,
		"startupProbe": c.StartupProbe != nil, "lifecycle": c.Lifecycle != nil, "restartPolicy": c.RestartPolicy != nil,
		"resources": len(c.Resources.Limits) > 0 || len(c.Resources.Requests) > 0,
	} {
		if set {
			errs = append(errs, field.Forbidden(p.Child(name), "cannot be set for an Ephemeral Container"))
		}
	}
	for i := range c.VolumeMounts {
		at := p.Child("volumeMounts").Index(i)
		if c.VolumeMounts[i].SubPath != "" {
			errs = append(errs, field.Forbidden(at.Child("subPath"), "cannot be set for an Ephemeral Container"))
		}
		if c.VolumeMounts[i].SubPathExpr != "" {
			errs = append(errs, field.Forbidden(at.Child("subPathExpr"), "cannot be set for an Ephemeral Container"))
		}
	}
	return errs
}
