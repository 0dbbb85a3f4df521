package podsecurity

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	standards "k8s.io/pod-security-admission/api"

	"github.com/podsnap/podsnap/api/rules"
)

// How many of a namespace's pods are looked at when its labels change, and for how
// long at most: it is only told of them.
const (
	maxExisting  = 3000
	ExistingTime = time.Second
)

// Stricter tells whether a change of a namespace's labels may leave it with pods that
// it would refuse now.
func Stricter(old, now map[string]string) bool {
	was, _ := standards.PolicyToEvaluate(old, open)
	is, _ := standards.PolicyToEvaluate(now, open)
	switch {
	case was.Enforce == is.Enforce, is.Enforce.Level == standards.LevelPrivileged:
		return false
	case was.Enforce.Version == is.Enforce.Version:
		return standards.CompareLevels(is.Enforce.Level, was.Enforce.Level) > 0
	}
	return true
}

// Existing warns of the pods of a namespace that it would refuse with these labels:
// one line for all that have the same faults. It ends early when late says so.
func Existing(namespace string, labels map[string]string, pods []*corev1.Pod, late func() bool) []string {
	p, _ := standards.PolicyToEvaluate(labels, open)
	type group struct {
		first string // the lowest name
		count int
	}
	groups := map[string]*group{}
	seen, all := 0, oneOfEach(pods)
	for _, pod := range all[:min(len(all), maxExisting)] {
		seen++
		r := evaluate(p.Enforce, rules.Template{Meta: &pod.ObjectMeta, Spec: &pod.Spec})
		if !r.Allowed {
			g := groups[r.ForbiddenReason()]
			if g == nil {
				g = &group{first: pod.Name}
				groups[r.ForbiddenReason()] = g
			}
			g.first = min(g.first, pod.Name)
			g.count++
		}
		if late() {
			break
		}
	}
	var lines, out []string
	for why, g := range groups {
		switch g.count {
		case 1:
			lines = append(lines, fmt.Sprintf("%s: %s", g.first, why))
		case 2:
			lines = append(lines, fmt.Sprintf("%s (and 1 other pod): %s", g.first, why))
		default:
			lines = append(lines, fmt.Sprintf("%s (and %d other pods): %s", g.first, g.count-1, why))
		}
	}
	if seen < len(all) {
		out = append(out, fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods", seen, len(all)))
	}
	if len(lines) > 0 {
		out = append(out, fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, p.Enforce))
	}
	slices.Sort(lines)
	return append(out, lines...)
}

// oneOfEach is pods in the order in which they are worth a look: those that are one
// of many of the same controller come last.
func oneOfEach(pods []*corev1.Pod) []*corev1.Pod {
	var out, more []*corev1.Pod
	have := map[types.UID]bool{}
	for _, p := range pods {
		c := metav1.GetControllerOfNoCopy(p)
		if c != nil && have[c.UID] {
			more = append(more, p)
			continue
		}
		if c != nil {
			have[c.UID] = true
		}
		out = append(out, p)
	}
	return append(out, more...)
}
