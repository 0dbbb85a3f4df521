package simulate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	"github.com/podsnap/podsnap/functions"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DefaultPolicy is simulated when none is named.
const DefaultPolicy = "zero=true"

// Policy is how functions scale in a simulation.
type Policy struct {
	Name string // as it was written
	autoscale.Policy
}

// ParsePolicy reads labels, as label=value,label=value. Scaling labels may be
// written without com.openfaas.scale., and podsnap.dev/concurrency as
// concurrency.
func ParsePolicy(text string) (Policy, error) {
	p := Policy{Name: text}
	labels := map[string]string{}
	for kv := range strings.SplitSeq(text, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(kv), "=")
		if !ok || k == "" || v == "" {
			return p, fmt.Errorf("policy %q: %q must be label=value", text, kv)
		}
		switch {
		case k == "concurrency" || k == api.AnnotationConcurrency:
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 {
				return p, fmt.Errorf("policy %q: concurrency must be a whole number of 0 or more", text)
			}
			p.Concurrency = n
			continue
		case !strings.HasPrefix(k, functions.LabelScalePrefix):
			k = functions.LabelScalePrefix + k
		}
		if labels[k] != "" {
			return p, fmt.Errorf("policy %q: %s is there twice", text, k)
		}
		labels[k] = v
	}
	var faults []error
	for _, f := range functions.ValidateScaling(labels, field.NewPath("labels")) {
		faults = append(faults, f)
	}
	if err := errors.Join(faults...); err != nil {
		return p, fmt.Errorf("policy %q: %w", text, err)
	}
	p.Scale = functions.Scaling(labels)
	return p, nil
}
