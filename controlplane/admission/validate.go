package admission

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
)

// maxData is the most that a Secret or ConfigMap may hold, in bytes.
const maxData = corev1.MaxSecretSize

// validateStatus checks the little of a status that others rely on.
func validateStatus(obj api.Object) field.ErrorList {
	switch o := obj.(type) {
	case *corev1.Pod:
		return oneOf(o.Status.Phase, field.NewPath("status", "phase"),
			corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown)
	case *corev1.Node:
		errs := validateQuantities(o.Status.Capacity, field.NewPath("status", "capacity"))
		return append(errs, validateQuantities(o.Status.Allocatable, field.NewPath("status", "allocatable"))...)
	}
	return nil
}

func validateNode(n *corev1.Node) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateStatus(n)
	seen := map[string]bool{}
	for i, t := range n.Spec.Taints {
		p := spec.Child("taints").Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, p.Child("key"))...)
		errs = append(errs, invalid(p.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
		errs = append(errs, oneOf(t.Effect, p.Child("effect"), corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		id := t.Key + "\x00" + string(t.Effect)
		if seen[id] {
			errs = append(errs, field.Duplicate(p, t.Key+":"+string(t.Effect)))
		}
		seen[id] = true
	}
	for i, c := range n.Spec.PodCIDRs {
		if _, err := netip.ParsePrefix(c); err != nil {
			errs = append(errs, field.Invalid(spec.Child("podCIDRs").Index(i), c, "must be a network in CIDR notation, such as 10.62.0.0/24"))
		}
	}
	if n.Spec.PodCIDR != "" && len(n.Spec.PodCIDRs) > 0 && n.Spec.PodCIDRs[0] != n.Spec.PodCIDR {
		errs = append(errs, field.Invalid(spec.Child("podCIDR"), n.Spec.PodCIDR, "must equal podCIDRs[0]"))
	}
	if _, err := api.FunctionPorts(n); err != nil {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(api.AnnotationFunctionPorts), n.Annotations[api.AnnotationFunctionPorts], "must be like 5432/tcp,53/udp; "+err.Error()))
	}
	return errs
}

func keepNode(n, old *corev1.Node) {
	if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) == 0 {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = old.Spec.PodCIDR, old.Spec.PodCIDRs
	}
	if n.Spec.PodCIDR == old.Spec.PodCIDR && len(n.Spec.PodCIDRs) < len(old.Spec.PodCIDRs) {
		n.Spec.PodCIDRs = old.Spec.PodCIDRs
	}
	or(&n.Spec.ProviderID, old.Spec.ProviderID)
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	if old.Spec.PodCIDR != "" && n.Spec.PodCIDR != old.Spec.PodCIDR {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "podCIDR"), "may not be changed: the node's pods have addresses of "+old.Spec.PodCIDR))
	}
	if now, was := n.Spec.PodCIDRs, old.Spec.PodCIDRs; len(was) > 1 && !slices.Equal(now, was) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "podCIDRs"), "may not be changed: the node's pods have addresses of "+strings.Join(was, " and ")))
	}
	if old.Spec.ProviderID != "" {
		errs = append(errs, immutable(n.Spec.ProviderID, old.Spec.ProviderID, field.NewPath("spec", "providerID"))...)
	}
	return errs
}

func validateEvent(e *corev1.Event) field.ErrorList {
	about := e.InvolvedObject.Namespace
	if about != "" && about != e.Namespace {
		return field.ErrorList{field.Invalid(field.NewPath("involvedObject", "namespace"), about, "must be the event's own namespace")}
	}
	return nil
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(spec.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if n := l.Spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(spec.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	return errs
}

// oneOf checks an enumeration: it is required and must be one of allowed.
func oneOf[T ~string](v T, p *field.Path, allowed ...T) field.ErrorList {
	if v == "" {
		names := make([]string, len(allowed))
		for i, a := range allowed {
			names[i] = string(a)
		}
		return field.ErrorList{field.Required(p, "must be one of "+strings.Join(names, ", "))}
	}
	if slices.Contains(allowed, v) {
		return nil
	}
	return field.ErrorList{field.NotSupported(p, v, allowed)}
}

// invalid turns the messages of apimachinery's checks into causes.
func invalid(p *field.Path, v any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(p, v, m))
	}
	return errs
}

func required(v string, p *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	return nil
}

func immutable(v, old any, p *field.Path) field.ErrorList {
	if equality.Semantic.DeepEqual(v, old) {
		return nil
	}
	return field.ErrorList{field.Invalid(p, v, apivalidation.FieldImmutableErrorMsg)}
}

func atLeast(v, least int64, p *field.Path) field.ErrorList {
	if v >= least {
		return nil
	}
	return field.ErrorList{field.Invalid(p, v, fmt.Sprintf("must be greater than or equal to %d", least))}
}

func port(v int32, p *field.Path) field.ErrorList {
	return invalid(p, v, validation.IsValidPortNum(int(v)))
}

func protocol(v corev1.Protocol, p *field.Path) field.ErrorList {
	return oneOf(v, p, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
}

func validateQuantities(l corev1.ResourceList, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, q := range l {
		k := p.Key(string(name))
		errs = append(errs, invalid(k, name, validation.IsQualifiedName(string(name)))...)
		errs = append(errs, notNegative(q, k)...)
	}
	return errs
}

func notNegative(q resource.Quantity, p *field.Path) field.ErrorList {
	if q.Sign() < 0 {
		return field.ErrorList{field.Invalid(p, q.String(), "must be greater than or equal to 0")}
	}
	return nil
}

// changed names the fields, by their names on the wire, in which two structs of
// one type differ.
func changed(a, b any) []string {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	var out []string
	for i := range x.NumField() {
		if !equality.Semantic.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			name, _, _ := strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
			out = append(out, name)
		}
	}
	return out
}
