package functions

import (
	"strings"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// readResources turns what the user wrote into quantities. What cannot be read
// is left out and reported.
func readResources(r *api.FunctionResources, at *field.Path) (corev1.ResourceList, field.ErrorList) {
	if r == nil {
		return nil, nil
	}
	var errs field.ErrorList
	list := corev1.ResourceList{}
	if r.Memory != "" {
		at := at.Child("memory")
		switch q, err := readQuantity(r.Memory, at, "64Mi, 512Mi or 1Gi"); {
		case err != nil:
			errs = append(errs, err)
		case strings.HasSuffix(r.Memory, "m"):
			// Docker's "128m" is a megabyte count, Kubernetes' a count of
			// thousandths of a byte.
			errs = append(errs, field.Invalid(at, r.Memory, "is thousandths of a byte: for megabytes write "+strings.TrimSuffix(r.Memory, "m")+"Mi"))
		default:
			list[corev1.ResourceMemory] = q
		}
	}
	if r.CPU != "" {
		if q, err := readQuantity(r.CPU, at.Child("cpu"), "100m, 0.5 or 2"); err != nil {
			errs = append(errs, err)
		} else {
			list[corev1.ResourceCPU] = q
		}
	}
	if len(list) == 0 {
		return nil, errs
	}
	return list, errs
}
