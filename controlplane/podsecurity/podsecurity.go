// Package podsecurity says how pods stand to the Pod Security Standards that the
// labels of their namespace ask for. The standards themselves, in each of their
// versions, are Kubernetes' own; what is refused and what is only told, and in
// which words, is decided here, purely.
package podsecurity

import (
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	standards "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"github.com/podsnap/podsnap/api/rules"
)

// Policy is what a namespace asks for in each of the three modes.
type Policy = standards.Policy

// prefix is what the labels of all modes begin with.
const prefix = "pod-security.kubernetes.io/"

// open is the policy of a namespace that asks for nothing.
var open = func() Policy {
	all := standards.LevelVersion{Level: standards.LevelPrivileged, Version: standards.LatestVersion()}
	return Policy{Enforce: all, Audit: all, Warn: all}
}()

// Of is the policy of a namespace with these labels; false when it asks for
// nothing. What is wrong in a label is restricted for the mode enforce, and nothing
// for the others, as in Kubernetes.
func Of(labels map[string]string) (Policy, bool) {
	for k := range labels {
		if strings.HasPrefix(k, prefix) {
			p, _ := standards.PolicyToEvaluate(labels, open)
			return p, !p.FullyPrivileged()
		}
	}
	return open, false
}

// ValidateLabels checks the labels of a namespace.
func ValidateLabels(labels map[string]string) field.ErrorList {
	_, errs := standards.PolicyToEvaluate(labels, open)
	return errs
}

// evaluator has the controls of all versions; made when a first namespace asks for
// any.
var evaluator = sync.OnceValue(func() policy.Evaluator {
	e, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic(err) // the library's own controls
	}
	return e
})

// evaluate holds a template to one level. The standards ask less of pods that say to
// be for Windows or in a user namespace of their own. Here all pods run on Linux, as
// users of the node, whatever they say; so nothing is taken off for it.
func evaluate(lv standards.LevelVersion, t rules.Template) policy.AggregateCheckResult {
	if t.Spec.OS != nil || t.Spec.HostUsers != nil {
		s := *t.Spec
		s.OS, s.HostUsers = nil, nil
		t.Spec = &s
	}
	return policy.AggregateCheckResults(evaluator().EvaluatePod(lv, t.Meta, t.Spec))
}

// Verdict is what is to be said of a pod or a template; "" is nothing.
type Verdict struct {
	Refused string // of pods alone: why it may not be
	Warning string // for who writes it
	Audit   string // for the log
}

// Judge holds a template to a policy. Only pods are refused: of what makes pods it is
// told, so that it may come before what its namespace is to be.
func Judge(p Policy, t rules.Template, pod bool) Verdict {
	known := map[standards.LevelVersion]string{}
	faults := func(lv standards.LevelVersion) string {
		text, ok := known[lv]
		if !ok {
			r := evaluate(lv, t)
			text = r.ForbiddenDetail()
			known[lv] = text
		}
		return text
	}
	var v Verdict
	if pod {
		if text := faults(p.Enforce); text != "" {
			v.Refused = fmt.Sprintf("violates PodSecurity %q: %s", p.Enforce, text)
		}
	}
	if text := faults(p.Audit); text != "" {
		v.Audit = fmt.Sprintf("would violate PodSecurity %q: %s", p.Audit, text)
	}
	if v.Refused != "" {
		return v
	}
	if text := faults(p.Warn); text != "" {
		v.Warning = fmt.Sprintf("would violate PodSecurity %q: %s", p.Warn, text)
	}
	return v
}

// Matters tells whether a change of a pod could change what is said of it. Of what
// the standards look at only images and ephemeral containers can change.
func Matters(old, now *corev1.Pod) bool {
	if len(old.Spec.EphemeralContainers) != len(now.Spec.EphemeralContainers) {
		return true
	}
	for _, s := range [][2][]corev1.Container{{old.Spec.Containers, now.Spec.Containers}, {old.Spec.InitContainers, now.Spec.InitContainers}} {
		if len(s[0]) != len(s[1]) {
			return true
		}
		for i := range s[0] {
			if s[0][i].Image != s[1][i].Image {
				return true
			}
		}
	}
	return false
}
