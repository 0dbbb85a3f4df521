package admission

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/component-helpers/resource"

	"github.com/podsnap/podsnap/api"
)

// What was set by LimitRanges is noted in an annotation.
const limitAnnotation = "kubernetes.io/limit-ranger"

// Limit gives the containers of a new pod the requests and limits of its
// namespace's LimitRanges, where they say none.
func Limit(p *corev1.Pod, ranges []*corev1.LimitRange) {
	asks, may := corev1.ResourceList{}, corev1.ResourceList{}
	for _, l := range ranges {
		for i := range l.Spec.Limits {
			if it := &l.Spec.Limits[i]; it.Type == corev1.LimitTypeContainer {
				fill(&asks, it.DefaultRequest)
				fill(&may, it.Default)
			}
		}
	}
	var notes []string
	set := func(cs []corev1.Container, what string) {
		for i := range cs {
			r := &cs[i].Resources
			notes = append(notes, lacking(&r.Requests, asks, "request for "+what+cs[i].Name)...)
			notes = append(notes, lacking(&r.Limits, may, "limit for "+what+cs[i].Name)...)
		}
	}
	set(p.Spec.Containers, "container ")
	set(p.Spec.InitContainers, "init container ")
	if len(notes) == 0 {
		return
	}
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[limitAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
}

// lacking fills what a list lacks and says what that was.
func lacking(to *corev1.ResourceList, from corev1.ResourceList, what string) []string {
	var names []string
	for name := range from {
		if _, ok := (*to)[name]; !ok {
			names = append(names, string(name))
		}
	}
	if len(names) == 0 {
		return nil
	}
	fill(to, from)
	slices.Sort(names)
	return []string{strings.Join(names, ", ") + " " + what}
}

// WithinLimits says what of an object its namespace's LimitRanges do not allow;
// nil when that is nothing.
func WithinLimits(obj api.Object, ranges []*corev1.LimitRange) error {
	var errs []error
	for _, l := range ranges {
		for i := range l.Spec.Limits {
			it := &l.Spec.Limits[i]
			switch o := obj.(type) {
			case *corev1.Pod:
				errs = append(errs, podWithin(o, it)...)
			case *corev1.PersistentVolumeClaim:
				if it.Type == corev1.LimitTypePersistentVolumeClaim {
					errs = append(errs, claimWithin(o, it)...)
				}
			}
		}
	}
	return utilerrors.NewAggregate(errs)
}

func podWithin(p *corev1.Pod, it *corev1.LimitRangeItem) []error {
	switch it.Type {
	case corev1.LimitTypeContainer:
		var errs []error
		for _, c := range append(slices.Clone(p.Spec.Containers), p.Spec.InitContainers...) {
			errs = append(errs, within(it, c.Resources.Requests, c.Resources.Limits)...)
		}
		return errs
	case corev1.LimitTypePod:
		return within(it, resource.PodRequests(p, resource.PodResourcesOptions{}), resource.PodLimits(p, resource.PodResourcesOptions{}))
	case corev1.LimitTypePersistentVolumeClaim:
	}
	return nil
}

func within(it *corev1.LimitRangeItem, asked, most corev1.ResourceList) []error {
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range sorted(it.Min) {
		note(atLeastOf(it.Type, name, it.Min[name], asked, most))
	}
	for _, name := range sorted(it.Max) {
		note(atMostOf(it.Type, name, it.Max[name], asked, most))
	}
	for _, name := range sorted(it.MaxLimitRequestRatio) {
		note(ratioOf(it.Type, name, it.MaxLimitRequestRatio[name], asked, most))
	}
	return errs
}

func sorted(l corev1.ResourceList) []corev1.ResourceName { return slices.Sorted(maps.Keys(l)) }

// bound says that one is not kept to, in the words of Kubernetes.
func bound(side string, name corev1.ResourceName, t corev1.LimitType, q apiresource.Quantity, what string) error {
	return fmt.Errorf("%s %s usage per %s is %s%s", side, name, t, q.String(), what)
}

func atLeastOf(t corev1.LimitType, name corev1.ResourceName, q apiresource.Quantity, asked, most corev1.ResourceList) error {
	ask, asks := asked[name]
	limit, limited := most[name]
	switch {
	case !asks:
		return bound("minimum", name, t, q, ".  No request is specified")
	case ask.Cmp(q) < 0:
		return bound("minimum", name, t, q, ", but request is "+ask.String())
	case limited && limit.Cmp(q) < 0:
		return bound("minimum", name, t, q, ", but limit is "+limit.String())
	}
	return nil
}

func atMostOf(t corev1.LimitType, name corev1.ResourceName, q apiresource.Quantity, asked, most corev1.ResourceList) error {
	ask, asks := asked[name]
	limit, limited := most[name]
	switch {
	case !limited:
		return bound("maximum", name, t, q, ".  No limit is specified")
	case limit.Cmp(q) > 0:
		return bound("maximum", name, t, q, ", but limit is "+limit.String())
	case asks && ask.Cmp(q) > 0:
		return bound("maximum", name, t, q, ", but request is "+ask.String())
	}
	return nil
}

func ratioOf(t corev1.LimitType, name corev1.ResourceName, q apiresource.Quantity, asked, most corev1.ResourceList) error {
	ask, asks := asked[name]
	limit, limited := most[name]
	what := fmt.Sprintf("%s max limit to request ratio per %s is %s, but ", name, t, q.String())
	if !asks || ask.IsZero() {
		return fmt.Errorf("%sno request is specified or request is 0", what)
	}
	if !limited || limit.IsZero() {
		return fmt.Errorf("%sno limit is specified or limit is 0", what)
	}
	if ratio := limit.AsApproximateFloat64() / ask.AsApproximateFloat64(); ratio > q.AsApproximateFloat64() {
		return fmt.Errorf("%sprovided ratio is %f", what, ratio)
	}
	return nil
}

func claimWithin(c *corev1.PersistentVolumeClaim, it *corev1.LimitRangeItem) []error {
	var errs []error
	asked := c.Spec.Resources.Requests
	for _, name := range sorted(it.Min) {
		if err := atLeastOf(it.Type, name, it.Min[name], asked, nil); err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range sorted(it.Max) {
		q, ask := it.Max[name], asked[name]
		if _, asks := asked[name]; !asks {
			errs = append(errs, bound("maximum", name, it.Type, q, ".  No request is specified"))
		} else if ask.Cmp(q) > 0 {
			errs = append(errs, bound("maximum", name, it.Type, q, ", but request is "+ask.String()))
		}
	}
	return errs
}
