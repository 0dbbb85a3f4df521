package rbac

import (
	"slices"
	"strings"

	"github.com/podsnap/podsnap/api"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LabelDefaults is on the roles and bindings that the platform makes.
const LabelDefaults = "kubernetes.io/bootstrapping"

const aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

var (
	reads  = []string{"get", "list", "watch"}
	writes = []string{"create", "delete", "deletecollection", "patch", "update"}
	all    = []string{"*"}
)

func rule(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources}
}

func paths(urls ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: urls}
}

func role(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: meta(name), Rules: rules}
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: name, Labels: map[string]string{LabelDefaults: "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

// part is a role that is aggregated to others, by the last word of their label.
func part(of string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	r := role("system:aggregate-to-"+of, rules...)
	r.Labels[aggregateTo+of] = "true"
	return r
}

// whole is a role that others are aggregated to.
func whole(name string, above ...string) *rbacv1.ClusterRole {
	r := role(name)
	for _, a := range above {
		r.Labels[aggregateTo+a] = "true"
	}
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{aggregateTo + name: "true"}}}}
	return r
}

// work are the resources in which work is described: read with view, written with
// edit. No secrets, and nothing that says who may do what.
func work() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps", "endpoints", "events", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods", "pods/status", "replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status", "serviceaccounts", "services", "services/status"}},
		{APIGroups: []string{"apps"}, Resources: []string{"controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale", "deployments/status", "replicasets", "replicasets/scale", "replicasets/status", "statefulsets", "statefulsets/scale", "statefulsets/status"}},
		{APIGroups: []string{"autoscaling"}, Resources: []string{"horizontalpodautoscalers", "horizontalpodautoscalers/status"}},
		{APIGroups: []string{"batch"}, Resources: []string{"cronjobs", "cronjobs/status", "jobs", "jobs/status"}},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
		{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ingresses", "ingresses/status", "networkpolicies"}},
		{APIGroups: []string{"policy"}, Resources: []string{"poddisruptionbudgets", "poddisruptionbudgets/status"}},
		{APIGroups: []string{api.FunctionGroup}, Resources: []string{"functions", "functions/status"}},
	}
}

func viewRules() []rbacv1.PolicyRule {
	out := work()
	for i := range out {
		out[i].Verbs = reads
	}
	return append(out,
		rule(reads, "", "limitranges", "resourcequotas", "resourcequotas/status", "namespaces/status", "pods/log", "bindings", "namespaces"),
		rule(reads, "metrics.k8s.io", "pods", "nodes"),
	)
}

// readOnly are resources of work that only the platform writes.
var readOnly = []string{"controllerrevisions", "endpointslices", "endpoints"}

func editRules() []rbacv1.PolicyRule {
	out := work()
	for i := range out {
		out[i].Verbs = writes
		out[i].Resources = slices.DeleteFunc(out[i].Resources, func(r string) bool {
			return slices.Contains(readOnly, r) || strings.HasSuffix(r, "/status")
		})
	}
	out = slices.DeleteFunc(out, func(r rbacv1.PolicyRule) bool { return len(r.Resources) == 0 })
	return append(out,
		rule(reads, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
		rule(writes, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
		rule([]string{"create"}, "", "pods/eviction", "serviceaccounts/token"),
		rule([]string{"patch", "update"}, "", "pods/ephemeralcontainers"),
		rule([]string{"impersonate"}, "", "serviceaccounts"),
		rule(append(slices.Clone(reads), writes...), "coordination.k8s.io", "leases"),
	)
}

// ClusterRoles are those that each cluster has, as Kubernetes has them.
func ClusterRoles() []*rbacv1.ClusterRole {
	return []*rbacv1.ClusterRole{
		role("cluster-admin", rbacv1.PolicyRule{Verbs: all, APIGroups: all, Resources: all}, rbacv1.PolicyRule{Verbs: all, NonResourceURLs: all}),
		whole("admin"), whole("edit", "admin"), whole("view", "edit"),
		part("admin",
			rule([]string{"create"}, "authorization.k8s.io", "localsubjectaccessreviews"),
			rule(append(slices.Clone(reads), writes...), rbacv1.GroupName, "rolebindings", "roles")),
		part("edit", editRules()...),
		part("view", viewRules()...),
		role("system:basic-user",
			rule([]string{"create"}, "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			rule([]string{"create"}, "authentication.k8s.io", "selfsubjectreviews")),
		role("system:discovery", paths("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/")),
		role("system:public-info-viewer", paths("/healthz", "/livez", "/readyz", "/version", "/version/")),
		role("system:service-account-issuer-discovery", paths("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/")),
		role("system:auth-delegator",
			rule([]string{"create"}, "authentication.k8s.io", "tokenreviews"),
			rule([]string{"create"}, "authorization.k8s.io", "subjectaccessreviews")),
		signerRole("kube-apiserver-client-approver", "approve", "kubernetes.io/kube-apiserver-client"),
		nodeRole(),
	}
}

// signerRole is bound to nobody: it is for who is to do something for a signer.
func signerRole(name, verb, signer string) *rbacv1.ClusterRole {
	r := rule([]string{verb}, "certificates.k8s.io", "signers")
	r.ResourceNames = []string{signer}
	return role("system:certificates.k8s.io:"+name, r)
}

// nodeRole is bound to nobody: it tells people what each node may do to what is its
// own.
func nodeRole() *rbacv1.ClusterRole {
	update := []string{"patch", "update"}
	return role("system:node",
		rule(reads, "", "nodes", "namespaces", "services", "endpoints", "pods", "persistentvolumes"),
		rule([]string{"get"}, "", "configmaps", "secrets", "persistentvolumeclaims"),
		rule(update, "", "nodes", "nodes/status", "pods/status"),
		rule([]string{"delete"}, "", "pods"),
		rule([]string{"create", "get", "patch", "update"}, "", "events"),
		rule([]string{"create"}, "", "serviceaccounts/token"),
		rule([]string{"get", "patch", "update"}, "coordination.k8s.io", "leases"),
		rule(reads, "discovery.k8s.io", "endpointslices"),
		rule(reads, "networking.k8s.io", "ingressclasses", "ingresses", "networkpolicies"),
		rule(reads, "apps", "deployments"),
		rule(reads, api.FunctionGroup, "functions"),
	)
}

// ClusterRoleBindings are those that each cluster has.
func ClusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	bind := func(to string, groups ...string) *rbacv1.ClusterRoleBinding {
		b := &rbacv1.ClusterRoleBinding{ObjectMeta: meta(to), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: to}}
		for _, g := range groups {
			b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: g})
		}
		return b
	}
	const known, unknown = "system:authenticated", "system:unauthenticated"
	return []*rbacv1.ClusterRoleBinding{
		bind("cluster-admin", "system:masters"), bind("system:basic-user", known), bind("system:discovery", known),
		bind("system:public-info-viewer", known, unknown), bind("system:service-account-issuer-discovery", "system:serviceaccounts"),
	}
}
