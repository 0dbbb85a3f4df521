package admission

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Priorities above this one are the system's: see the built-in classes.
const highestUserPriority = 1_000_000_000

// SystemPriorities are the built-in classes of pods that the cluster, or a node,
// cannot do without.
func SystemPriorities() []schedulingv1.PriorityClass {
	cluster := schedulingv1.PriorityClass{Value: 2 * highestUserPriority, Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."}
	cluster.Name = "system-cluster-critical"
	node := schedulingv1.PriorityClass{Value: 2*highestUserPriority + 1000, Description: "Used for system critical pods that must not be moved from their current node."}
	node.Name = "system-node-critical"
	return []schedulingv1.PriorityClass{cluster, node}
}

// defaultLimitRange has what a container asks for, and may have, follow from what
// is said of it at all.
func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		it := &l.Spec.Limits[i]
		if it.Type == corev1.LimitTypeContainer {
			fill(&it.Default, it.Max)
			fill(&it.DefaultRequest, it.Default)
			fill(&it.DefaultRequest, it.Min)
		}
	}
}

// fill takes over what is not in to.
func fill(to *corev1.ResourceList, from corev1.ResourceList) {
	for name, q := range from {
		if _, ok := (*to)[name]; ok {
			continue
		}
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		(*to)[name] = q.DeepCopy()
	}
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.LimitType]bool{}
	for i := range l.Spec.Limits {
		it, p := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, validateLimitType(it.Type, p.Child("type"))...)
		if seen[it.Type] {
			errs = append(errs, field.Duplicate(p.Child("type"), it.Type))
		}
		seen[it.Type] = true
		switch it.Type {
		case corev1.LimitTypePod:
			if len(it.Default) > 0 {
				errs = append(errs, field.Forbidden(p.Child("default"), "may not be specified when `type` is 'Pod'"))
			}
			if len(it.DefaultRequest) > 0 {
				errs = append(errs, field.Forbidden(p.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
			}
		case corev1.LimitTypePersistentVolumeClaim:
			_, least := it.Min[corev1.ResourceStorage]
			_, most := it.Max[corev1.ResourceStorage]
			if !least && !most {
				errs = append(errs, field.Required(p, "either minimum or maximum storage value is required, but neither was provided"))
			}
		case corev1.LimitTypeContainer:
		}
		errs = append(errs, validateLimits(it, p)...)
	}
	return errs
}

func validateLimitType(t corev1.LimitType, p *field.Path) field.ErrorList {
	if errs := invalid(p, t, validation.IsQualifiedName(string(t))); len(errs) > 0 {
		return errs
	}
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	if strings.Contains(string(t), "/") {
		return nil
	}
	return field.ErrorList{field.Invalid(p, t, "must be a standard limit type or fully qualified")}
}

// validateLimits holds the bounds of one item against one another.
func validateLimits(it *corev1.LimitRangeItem, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := map[corev1.ResourceName]bool{}
	for child, l := range map[string]corev1.ResourceList{"max": it.Max, "min": it.Min, "default": it.Default, "defaultRequest": it.DefaultRequest, "maxLimitRequestRatio": it.MaxLimitRequestRatio} {
		for name, q := range l {
			names[name] = true
			at := p.Child(child).Key(string(name))
			errs = append(errs, validateLimitName(it.Type, name, at)...)
			errs = append(errs, notNegative(q, at)...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		errs = append(errs, validateLimit(it, name, p)...)
	}
	return errs
}

func validateLimitName(t corev1.LimitType, name corev1.ResourceName, p *field.Path) field.ErrorList {
	if errs := invalid(p, name, validation.IsQualifiedName(string(name))); len(errs) > 0 || strings.Contains(string(name), "/") {
		return errs
	}
	switch {
	case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
		return nil
	case name == corev1.ResourceStorage && t == corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	return field.ErrorList{field.Invalid(p, name, "must be a standard resource type or fully qualified")}
}

func validateLimit(it *corev1.LimitRangeItem, name corev1.ResourceName, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	order := func(low, high corev1.ResourceList, lowName, highName string, at string, shown corev1.ResourceList) {
		l, ok := low[name]
		h, both := high[name]
		if shown := shown[name]; ok && both && l.Cmp(h) > 0 {
			errs = append(errs, field.Invalid(p.Child(at).Key(string(name)), shown.String(), fmt.Sprintf("%s value %s is greater than %s value %s", lowName, l.String(), highName, h.String())))
		}
	}
	order(it.Min, it.Max, "min", "max", "min", it.Min)
	order(it.Min, it.DefaultRequest, "min", "default request", "defaultRequest", it.DefaultRequest)
	order(it.DefaultRequest, it.Max, "default request", "max", "defaultRequest", it.DefaultRequest)
	order(it.DefaultRequest, it.Default, "default request", "default limit", "defaultRequest", it.DefaultRequest)
	order(it.Min, it.Default, "min", "default", "default", it.Min)
	order(it.Default, it.Max, "default", "max", "default", it.Max)
	ratio, ok := it.MaxLimitRequestRatio[name]
	if !ok {
		return errs
	}
	at := p.Child("maxLimitRequestRatio").Key(string(name))
	if ratio.Cmp(resource.MustParse("1")) < 0 {
		errs = append(errs, field.Invalid(at, ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String())))
	}
	least, hasMin := it.Min[name]
	most, hasMax := it.Max[name]
	if hasMin && hasMax && least.Sign() > 0 {
		if whole := most.AsApproximateFloat64() / least.AsApproximateFloat64(); ratio.AsApproximateFloat64() > whole {
			errs = append(errs, field.Invalid(at, ratio.String(), fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), whole)))
		}
	}
	return errs
}

func validatePriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	errs := oneOf(*c.PreemptionPolicy, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)
	if strings.HasPrefix(c.Name, "system-") {
		for _, s := range SystemPriorities() {
			if s.Name == c.Name && s.Value == c.Value && !c.GlobalDefault {
				return errs
			}
		}
		return append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with 'system-' prefix are reserved for system use only"))
	}
	if c.Value > highestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %d", highestUserPriority)))
	}
	return errs
}

func validatePriorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if c.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	if old.PreemptionPolicy != nil {
		errs = append(errs, immutable(c.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
	}
	return errs
}
