package functions

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// defaultProbePeriod is short: a replica that is ready is wanted now.
const defaultProbePeriod = 2

// readProbe makes the probe that annotations with the prefix describe; nil when
// there is none. What cannot be read keeps its default and is reported.
func readProbe(annotations map[string]string, prefix string, at *field.Path) (*corev1.Probe, field.ErrorList) {
	var p *corev1.Probe
	var errs field.ErrorList
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		if p == nil {
			p = newProbe(prefix)
		}
		if msg := setProbe(p, name, annotations[key], prefix == annotationReady); msg != "" {
			errs = append(errs, field.Invalid(at.Key(key), annotations[key], msg))
		}
	}
	return p, errs
}

func newProbe(prefix string) *corev1.Probe {
	path := "/_/health"
	if prefix == annotationReady {
		path = "/_/ready"
	}
	return &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(api.FunctionPort), Scheme: corev1.URISchemeHTTP}},
		PeriodSeconds:    defaultProbePeriod,
		TimeoutSeconds:   1,
		SuccessThreshold: 1,
		FailureThreshold: 3,
	}
}

func setProbe(p *corev1.Probe, name, value string, ready bool) (fault string) {
	switch name {
	case "path":
		if !strings.HasPrefix(value, "/") {
			return "must be a path that begins with /"
		}
		p.HTTPGet.Path = value
		return ""
	case "initialDelaySeconds":
		return setSeconds(&p.InitialDelaySeconds, value, 0)
	case "periodSeconds":
		return setSeconds(&p.PeriodSeconds, value, 1)
	case "timeoutSeconds":
		return setSeconds(&p.TimeoutSeconds, value, 1)
	case "failureThreshold":
		return setSeconds(&p.FailureThreshold, value, 1)
	case "successThreshold":
		if !ready {
			return "is for the readiness probe only"
		}
		return setSeconds(&p.SuccessThreshold, value, 1)
	}
	return "is not known: use path, initialDelaySeconds, periodSeconds, timeoutSeconds, failureThreshold or successThreshold"
}

func setSeconds(to *int32, value string, low int64) (fault string) {
	n, err := strconv.ParseInt(strings.TrimSuffix(value, "s"), 10, 32)
	if err != nil || n < low {
		return fmt.Sprintf("must be a whole number of %d or more", low)
	}
	*to = int32(n)
	return ""
}
