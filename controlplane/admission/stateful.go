package admission

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// longestStateful is the longest name of a StatefulSet: its revisions, which add 11
// bytes to it, are the value of a label.
const longestStateful = 52

func defaultStatefulSet(s *appsv1.StatefulSet) {
	spec := &s.Spec
	orNew(&spec.Replicas, 1)
	orNew(&spec.RevisionHistoryLimit, 10)
	or(&spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	or(&spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		if spec.UpdateStrategy.RollingUpdate == nil {
			spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
		}
		orNew(&spec.UpdateStrategy.RollingUpdate.Partition, 0)
	}
	if spec.PersistentVolumeClaimRetentionPolicy == nil {
		spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	or(&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	or(&spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	for i := range spec.VolumeClaimTemplates {
		c := &spec.VolumeClaimTemplates[i]
		or(&c.APIVersion, "v1")
		or(&c.Kind, "PersistentVolumeClaim")
		defaultClaim(c)
	}
	defaultPodSpec(&spec.Template.Spec)
}

func validateStatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	name := field.NewPath("metadata", "name")
	switch {
	case len(s.Name) > longestStateful:
		errs = append(errs, field.TooLong(name, s.Name, longestStateful))
	case s.Name != "":
		for _, m := range validation.IsDNS1123Label(s.Name) {
			errs = append(errs, field.Invalid(name, s.Name, "is part of its pods' host names: "+m))
		}
	}
	errs = append(errs, validateReplicas(s.Spec.Replicas, spec)...)
	errs = append(errs, atLeast(int64(s.Spec.MinReadySeconds), 0, spec.Child("minReadySeconds"))...)
	errs = append(errs, atLeast(int64(*s.Spec.RevisionHistoryLimit), 0, spec.Child("revisionHistoryLimit"))...)
	if o := s.Spec.Ordinals; o != nil {
		errs = append(errs, atLeast(int64(o.Start), 0, spec.Child("ordinals", "start"))...)
	}
	if s.Spec.ServiceName != "" {
		errs = append(errs, invalid(spec.Child("serviceName"), s.Spec.ServiceName, validation.IsDNS1123Label(s.Spec.ServiceName))...)
	}
	errs = append(errs, oneOf(s.Spec.PodManagementPolicy, spec.Child("podManagementPolicy"), appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)...)
	keep, at := s.Spec.PersistentVolumeClaimRetentionPolicy, spec.Child("persistentVolumeClaimRetentionPolicy")
	errs = append(errs, oneOf(keep.WhenDeleted, at.Child("whenDeleted"), appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)...)
	errs = append(errs, oneOf(keep.WhenScaled, at.Child("whenScaled"), appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)...)
	errs = append(errs, validateStatefulUpdates(&s.Spec.UpdateStrategy, spec.Child("updateStrategy"))...)
	errs = append(errs, validateClaimTemplates(s.Spec.VolumeClaimTemplates, spec.Child("volumeClaimTemplates"))...)
	errs = append(errs, validateSelector(s.Spec.Selector, s.Spec.Template.Labels, spec)...)
	return append(errs, validateTemplate(withClaims(s), spec.Child("template"))...)
}

func validateStatefulUpdates(u *appsv1.StatefulSetUpdateStrategy, p *field.Path) field.ErrorList {
	errs := oneOf(u.Type, p.Child("type"), appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType)
	r, at := u.RollingUpdate, p.Child("rollingUpdate")
	switch {
	case r == nil:
		return errs
	case u.Type == appsv1.OnDeleteStatefulSetStrategyType:
		return append(errs, field.Invalid(at, r, "only allowed for updateStrategy 'RollingUpdate'"))
	}
	if r.Partition != nil {
		errs = append(errs, atLeast(int64(*r.Partition), 0, at.Child("partition"))...)
	}
	if r.MaxUnavailable == nil {
		return errs
	}
	most, e := share(r.MaxUnavailable, at.Child("maxUnavailable"))
	switch {
	case len(e) > 0:
		return append(errs, e...)
	case most == 0:
		errs = append(errs, field.Invalid(at.Child("maxUnavailable"), r.MaxUnavailable.String(), "cannot be 0: nothing could be replaced"))
	case r.MaxUnavailable.Type == intstr.String && most > 100:
		errs = append(errs, field.Invalid(at.Child("maxUnavailable"), r.MaxUnavailable.String(), "must not be greater than 100%"))
	}
	return errs
}

func validateClaimTemplates(claims []corev1.PersistentVolumeClaim, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range claims {
		c, at := &claims[i], p.Index(i)
		name := at.Child("metadata", "name")
		if c.Name == "" {
			errs = append(errs, field.Required(name, "pods mount it by this name"))
		} else {
			errs = append(errs, invalid(name, c.Name, validation.IsDNS1123Label(c.Name))...)
		}
		if seen.Has(c.Name) {
			errs = append(errs, field.Duplicate(name, c.Name))
		}
		seen.Insert(c.Name)
		if c.Namespace != "" {
			errs = append(errs, field.Forbidden(at.Child("metadata", "namespace"), "claims are in the set's own namespace"))
		}
		errs = append(errs, validateClaimSpec(&c.Spec, at.Child("spec"))...)
	}
	return errs
}

// withClaims is the template as pods are made of it: containers may mount claims that
// it does not list as volumes.
func withClaims(s *appsv1.StatefulSet) *corev1.PodTemplateSpec {
	t := s.Spec.Template.DeepCopy()
	for _, c := range s.Spec.VolumeClaimTemplates {
		v := corev1.Volume{Name: c.Name}
		v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}
		replaced := false
		for i := range t.Spec.Volumes {
			if t.Spec.Volumes[i].Name == c.Name {
				t.Spec.Volumes[i], replaced = v, true
			}
		}
		if !replaced && c.Name != "" {
			t.Spec.Volumes = append(t.Spec.Volumes, v)
		}
	}
	return t
}

// mutableStateful are the fields of a StatefulSet's spec that may change.
var mutableStateful = []string{"replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit", "persistentVolumeClaimRetentionPolicy", "minReadySeconds"}

func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	was, now := old.DeepCopy(), s.Spec.DeepCopy()
	defaultStatefulSet(was)
	now.Replicas, now.Ordinals, now.Template, now.UpdateStrategy = was.Spec.Replicas, was.Spec.Ordinals, was.Spec.Template, was.Spec.UpdateStrategy
	now.RevisionHistoryLimit, now.MinReadySeconds = was.Spec.RevisionHistoryLimit, was.Spec.MinReadySeconds
	now.PersistentVolumeClaimRetentionPolicy = was.Spec.PersistentVolumeClaimRetentionPolicy
	var errs field.ErrorList
	for _, f := range changed(*now, was.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", f), fmt.Sprintf("updates to statefulset spec for fields other than '%s' are forbidden", strings.Join(mutableStateful, "', '"))))
	}
	return errs
}
