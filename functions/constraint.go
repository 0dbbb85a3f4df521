package functions

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// constraint is one demand on a node's labels.
type constraint struct {
	key, value string
	differs    bool
}

// swarmKeys are names that stack files of Docker Swarm times still use.
var swarmKeys = map[string]string{
	"node.platform.os":   corev1.LabelOSStable,
	"node.platform.arch": corev1.LabelArchStable,
	"node.hostname":      corev1.LabelHostname,
}

var swarmArch = map[string]string{"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}

func parseConstraint(s string) (constraint, error) {
	c := constraint{}
	key, value, ok := strings.Cut(s, "!=")
	if c.differs = ok; !ok {
		if key, value, ok = strings.Cut(s, "=="); !ok {
			key, value, ok = strings.Cut(s, "=")
		}
	}
	if !ok {
		return c, fmt.Errorf("must be key=value, key==value or key!=value")
	}
	c.key, c.value = strings.TrimSpace(key), strings.TrimSpace(value)
	if k, ok := swarmKeys[c.key]; ok {
		if c.key == "node.platform.arch" && swarmArch[c.value] != "" {
			c.value = swarmArch[c.value]
		}
		c.key = k
	}
	if msgs := validation.IsQualifiedName(c.key); len(msgs) > 0 {
		return c, fmt.Errorf("%q is not a node label: %s", c.key, msgs[0])
	}
	if msgs := validation.IsValidLabelValue(c.value); len(msgs) > 0 {
		return c, fmt.Errorf("%q is not a value of a node label: %s", c.value, msgs[0])
	}
	return c, nil
}

func validateConstraints(list []string, at *field.Path) (errs field.ErrorList) {
	equal := map[string]string{}
	for i, s := range list {
		c, err := parseConstraint(s)
		if err != nil {
			errs = append(errs, field.Invalid(at.Index(i), s, err.Error()))
			continue
		}
		if c.differs {
			continue
		}
		if v, ok := equal[c.key]; ok && v != c.value {
			errs = append(errs, field.Invalid(at.Index(i), s, fmt.Sprintf("contradicts %s=%s: no node has both", c.key, v)))
		}
		equal[c.key] = c.value
	}
	return errs
}

// place turns constraints into what the scheduler reads.
func place(list []string) (map[string]string, *corev1.Affinity) {
	var selector map[string]string
	var differs []corev1.NodeSelectorRequirement
	for _, s := range list {
		c, err := parseConstraint(s)
		switch {
		case err != nil: // Validate has refused it
		case c.differs:
			differs = append(differs, corev1.NodeSelectorRequirement{Key: c.key, Operator: corev1.NodeSelectorOpNotIn, Values: []string{c.value}})
		default:
			if selector == nil {
				selector = map[string]string{}
			}
			selector[c.key] = c.value
		}
	}
	if differs == nil {
		return selector, nil
	}
	return selector, &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: differs}},
		},
	}}
}
