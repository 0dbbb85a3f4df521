package functions

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxName     = 63
	maxEnvValue = 128 << 10 // the kernel refuses a longer string in execve
	maxEnvTotal = 1 << 20
)

var nameForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// Validate lists everything that is wrong with f, each with its field, what was
// written and what is allowed. Call Default first.
func Validate(f *api.Function) field.ErrorList {
	spec := field.NewPath("spec")
	s := &f.Spec
	errs := validateName(f)
	errs = append(errs, validateImage(s.Image, spec.Child("image"))...)
	errs = append(errs, validateEnvironment(s.Environment, spec.Child("environment"))...)
	errs = append(errs, validateLabels(f.Name, s.Labels, spec.Child("labels"))...)
	errs = append(errs, validateAnnotations(s.Annotations, spec.Child("annotations"))...)
	errs = append(errs, validateConstraints(s.Constraints, spec.Child("constraints"))...)
	errs = append(errs, validateSecrets(s.Secrets, spec.Child("secrets"))...)
	return append(errs, validateResources(s, spec)...)
}

// ValidName says why name cannot be a function's name; "" when it can.
func ValidName(name string) string {
	switch {
	case name == "":
		return "a function needs a name: lower-case letters, digits and '-'"
	case len(name) > maxName:
		return fmt.Sprintf("must be at most %d characters, this one has %d", maxName, len(name))
	case !nameForm.MatchString(name):
		return "must be lower-case letters, digits and '-', and begin and end with a letter or digit, such as resize-image"
	}
	return ""
}

func validateName(f *api.Function) (errs field.ErrorList) {
	at := field.NewPath("metadata", "name")
	if msg := ValidName(f.Name); msg != "" {
		errs = append(errs, field.Invalid(at, f.Name, msg))
	}
	if f.Spec.Name != f.Name {
		errs = append(errs, field.Invalid(field.NewPath("spec", "name"), f.Spec.Name, fmt.Sprintf("must equal metadata.name (%s)", f.Name)))
	}
	if d := f.Annotations[AnnotationDigest]; d != "" && !digestForm.MatchString(d) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(AnnotationDigest), d, "must be sha256: and 64 hexadecimal digits"))
	}
	return errs
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func validateImage(image string, at *field.Path) field.ErrorList {
	if image == "" {
		return field.ErrorList{field.Required(at, "name the image, such as resize:latest or docker.io/library/nginx:1")}
	}
	if _, err := reference.ParseNormalizedNamed(image); err != nil {
		return field.ErrorList{field.Invalid(at, image, fmt.Sprintf("must be [registry/]name[:tag][@digest] in lower case: %v", err))}
	}
	return nil
}

func validateEnvironment(env map[string]string, at *field.Path) (errs field.ErrorList) {
	total := 0
	for _, k := range slices.Sorted(maps.Keys(env)) {
		v := env[k]
		total += len(k) + len(v)
		if msgs := validation.IsEnvVarName(k); len(msgs) > 0 {
			errs = append(errs, field.Invalid(at.Key(k), k, msgs[0]))
		}
		if len(v) > maxEnvValue {
			errs = append(errs, field.TooLong(at.Key(k), "", maxEnvValue))
		}
		if strings.ContainsRune(v, 0) {
			errs = append(errs, field.Invalid(at.Key(k), v, "must not hold a zero byte: no process can be started with one"))
		}
	}
	if total > maxEnvTotal {
		errs = append(errs, field.TooLong(at, "", maxEnvTotal))
	}
	for _, k := range []string{envExecTimeout, envWriteTimeout} {
		if _, err := ParseDuration(env[k]); err != nil {
			errs = append(errs, field.Invalid(at.Key(k), env[k], "must be seconds (60) or a Go duration (1m30s), not negative"))
		}
	}
	if _, err := parseCount(env[envMaxInflight]); err != nil {
		errs = append(errs, field.Invalid(at.Key(envMaxInflight), env[envMaxInflight], "must be a whole number; 0 is no limit"))
	}
	return errs
}

func validateLabels(name string, labels map[string]string, at *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(labels, at)
	if v, ok := labels[api.LabelFunction]; ok && v != name {
		errs = append(errs, field.Invalid(at.Key(api.LabelFunction), v, fmt.Sprintf("is set by the platform to the function's name (%s): leave it out", name)))
	}
	if v, ok := labels[api.LabelPodTemplateHash]; ok {
		errs = append(errs, field.Invalid(at.Key(api.LabelPodTemplateHash), v, "is set by the platform: leave it out"))
	}
	if v := labels[api.AnnotationConcurrency]; v != "" {
		errs = append(errs, validateConcurrency(v, at)...)
	}
	return append(errs, ValidateScaling(labels, at)...)
}

func validateConcurrency(v string, at *field.Path) field.ErrorList {
	if _, err := parseCount(v); err != nil {
		return field.ErrorList{field.Invalid(at.Key(api.AnnotationConcurrency), v, "must be a whole number; 0 is no limit")}
	}
	return nil
}

func validateAnnotations(annotations map[string]string, at *field.Path) field.ErrorList {
	errs := apivalidation.ValidateAnnotations(annotations, at)
	for _, k := range slices.Sorted(maps.Keys(annotations)) {
		switch {
		case k == api.AnnotationConcurrency:
			errs = append(errs, validateConcurrency(annotations[k], at)...)
		case k == api.AnnotationQueue:
			if n, err := parseCount(annotations[k]); err != nil || n < 1 {
				errs = append(errs, field.Invalid(at.Key(k), annotations[k], "must be a whole number, 1 or more: how many requests may wait"))
			}
		case k == api.AnnotationWait:
			if d, err := ParseDuration(annotations[k]); err != nil || d <= 0 {
				errs = append(errs, field.Invalid(at.Key(k), annotations[k], "must be seconds (10) or a Go duration (500ms): the longest that a request waits for a replica"))
			}
		case k == api.AnnotationPriorityClass:
			for _, m := range validation.IsDNS1123Subdomain(annotations[k]) {
				errs = append(errs, field.Invalid(at.Key(k), annotations[k], m))
			}
		case strings.HasPrefix(k, "podsnap.dev/"):
			errs = append(errs, field.Invalid(at.Key(k), annotations[k], "is set by the platform: leave it out"))
		}
	}
	_, ready := readProbe(annotations, annotationReady, at)
	_, health := readProbe(annotations, annotationHealth, at)
	return append(append(errs, ready...), health...)
}

func validateSecrets(secrets []string, at *field.Path) (errs field.ErrorList) {
	for i, s := range secrets {
		if msgs := validation.IsDNS1123Subdomain(s); len(msgs) > 0 {
			errs = append(errs, field.Invalid(at.Index(i), s, msgs[0]))
		}
		if slices.Contains(secrets[:i], s) {
			errs = append(errs, field.Duplicate(at.Index(i), s))
		}
	}
	return errs
}

func validateResources(s *api.FunctionSpec, spec *field.Path) (errs field.ErrorList) {
	limits, es := readResources(s.Limits, spec.Child("limits"))
	errs = append(errs, es...)
	requests, es := readResources(s.Requests, spec.Child("requests"))
	errs = append(errs, es...)
	for name, r := range requests {
		if l, ok := limits[name]; ok && r.Cmp(l) > 0 {
			errs = append(errs, field.Invalid(spec.Child("requests", string(name)), r.String(), fmt.Sprintf("must not be more than the limit (%s)", l.String())))
		}
	}
	slices.SortFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	return errs
}

func readQuantity(s string, at *field.Path, example string) (resource.Quantity, *field.Error) {
	q, err := resource.ParseQuantity(s)
	if err != nil || q.Sign() < 0 {
		return q, field.Invalid(at, s, "must be a quantity of 0 or more, such as "+example)
	}
	return q, nil
}
