package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Request is what somebody wants to do: something to a resource or, when Path is
// set, to what is no resource.
type Request struct {
	Verb      string
	Group     string // of the API
	Resource  string // with a subresource after a slash
	Namespace string // "" is the cluster, or all namespaces
	Name      string
	Path      string
}

// allows tells whether one rule allows a request, wherever that is.
func allows(rule *rbacv1.PolicyRule, r Request) bool {
	if !has(rule.Verbs, r.Verb) {
		return false
	}
	if r.Path != "" {
		return slices.ContainsFunc(rule.NonResourceURLs, func(u string) bool { return matches(u, r.Path) })
	}
	return has(rule.APIGroups, r.Group) &&
		hasResource(rule.Resources, r.Resource) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, r.Name))
}

// has finds what is named, or a star, which stands for all verbs, groups and resources.
func has(list []string, one string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, one)
}

// hasResource finds a resource by its name, or its subresource as of every
// resource: */scale.
func hasResource(list []string, resource string) bool {
	if has(list, resource) {
		return true
	}
	_, sub, ok := strings.Cut(resource, "/")
	return ok && slices.Contains(list, "*/"+sub)
}

// matches tells whether a pattern, which may end with a star, stands for a path.
func matches(pattern, path string) bool {
	if start, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, start)
	}
	return pattern == path
}

// Uncovered answers with the parts of want that have does not allow, each with one
// verb of one resource or path.
func Uncovered(have, want []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var missing []rbacv1.PolicyRule
	for i := range want {
		for _, part := range split(&want[i]) {
			if !slices.ContainsFunc(have, func(h rbacv1.PolicyRule) bool { return contains(&h, &part) }) {
				missing = append(missing, part)
			}
		}
	}
	return missing
}

// split takes a rule to pieces that say one thing each.
func split(r *rbacv1.PolicyRule) (out []rbacv1.PolicyRule) {
	names := make([][]string, 0, max(1, len(r.ResourceNames)))
	for _, n := range r.ResourceNames {
		names = append(names, []string{n})
	}
	if len(names) == 0 {
		names = append(names, nil) // of every name
	}
	for _, verb := range r.Verbs {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, n := range names {
					out = append(out, rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: n})
				}
			}
		}
		for _, u := range r.NonResourceURLs {
			out = append(out, rbacv1.PolicyRule{Verbs: []string{verb}, NonResourceURLs: []string{u}})
		}
	}
	return out
}

// contains tells whether a rule allows all that a part of another allows.
func contains(rule, part *rbacv1.PolicyRule) bool {
	if !has(rule.Verbs, part.Verbs[0]) {
		return false
	}
	if len(part.NonResourceURLs) > 0 {
		return slices.ContainsFunc(rule.NonResourceURLs, func(u string) bool { return matches(u, part.NonResourceURLs[0]) })
	}
	if !has(rule.APIGroups, part.APIGroups[0]) || !hasResource(rule.Resources, part.Resources[0]) {
		return false
	}
	return len(rule.ResourceNames) == 0 || len(part.ResourceNames) == 1 && slices.Contains(rule.ResourceNames, part.ResourceNames[0])
}
