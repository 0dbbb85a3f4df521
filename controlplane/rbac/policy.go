// Package rbac decides what roles and bindings allow. Nothing is allowed that no
// rule allows; there are no rules that forbid.
package rbac

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
)

// User is who asks.
type User struct {
	Name   string
	Groups []string
}

// AccountPrefix begins the names of users that are service accounts.
const AccountPrefix = "system:serviceaccount:"

// AccountUser is the name of a service account's user.
func AccountUser(namespace, name string) string { return AccountPrefix + namespace + ":" + name }

// Policy is all roles and bindings. A question costs as much as the bindings that
// name its user, not as all that there are. Safe for concurrent use.
type Policy struct {
	mu       sync.RWMutex
	roles    map[types.NamespacedName][]rbacv1.PolicyRule // of the cluster: without a namespace
	bindings map[types.NamespacedName]*binding
	subjects map[subject]map[types.NamespacedName]*binding
}

// binding gives a role's rules to subjects: everywhere, or in its namespace.
type binding struct {
	at       types.NamespacedName
	role     types.NamespacedName
	ref      rbacv1.RoleRef
	subjects []subject
}

// subject is a user or a group, as a key.
type subject struct {
	name  string
	group bool
}

// New makes a policy that allows nothing.
func New() *Policy {
	return &Policy{
		roles:    map[types.NamespacedName][]rbacv1.PolicyRule{},
		bindings: map[types.NamespacedName]*binding{}, subjects: map[subject]map[types.NamespacedName]*binding{},
	}
}

// SetRole takes in a role of a namespace, or of the cluster for "".
func (p *Policy) SetRole(namespace, name string, rules []rbacv1.PolicyRule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roles[types.NamespacedName{Namespace: namespace, Name: name}] = rules
}

// DropRole forgets one.
func (p *Policy) DropRole(namespace, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.roles, types.NamespacedName{Namespace: namespace, Name: name})
}

// SetBinding takes in a binding of a namespace, or of the cluster for "".
func (p *Policy) SetBinding(namespace, name string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
	b := &binding{at: types.NamespacedName{Namespace: namespace, Name: name}, ref: ref, role: types.NamespacedName{Name: ref.Name}}
	if ref.Kind == "Role" {
		b.role.Namespace = namespace
	}
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			b.subjects = append(b.subjects, subject{name: s.Name})
		case rbacv1.GroupKind:
			b.subjects = append(b.subjects, subject{name: s.Name, group: true})
		case rbacv1.ServiceAccountKind:
			ns := s.Namespace
			if ns == "" {
				ns = namespace
			}
			b.subjects = append(b.subjects, subject{name: AccountUser(ns, s.Name)})
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(b.at)
	p.bindings[b.at] = b
	for _, s := range b.subjects {
		if p.subjects[s] == nil {
			p.subjects[s] = map[types.NamespacedName]*binding{}
		}
		p.subjects[s][b.at] = b
	}
}

// DropBinding forgets one.
func (p *Policy) DropBinding(namespace, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(types.NamespacedName{Namespace: namespace, Name: name})
}

func (p *Policy) drop(at types.NamespacedName) {
	b := p.bindings[at]
	if b == nil {
		return
	}
	delete(p.bindings, at)
	for _, s := range b.subjects {
		delete(p.subjects[s], at)
		if len(p.subjects[s]) == 0 {
			delete(p.subjects, s)
		}
	}
}

// of calls f with the bindings that give a user something in a namespace, until it
// answers false. p.mu is held.
func (p *Policy) of(u User, namespace string, f func(*binding) bool) {
	ask := func(s subject) bool {
		for _, b := range p.subjects[s] {
			if (b.at.Namespace == "" || b.at.Namespace == namespace) && !f(b) {
				return false
			}
		}
		return true
	}
	if !ask(subject{name: u.Name}) {
		return
	}
	for _, g := range u.Groups {
		if !ask(subject{name: g, group: true}) {
			return
		}
	}
}

// Allows tells whether a user may do something, and by which binding.
func (p *Policy) Allows(u User, r Request) (by string, ok bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	namespace := r.Namespace
	if r.Path != "" {
		namespace = ""
	}
	p.of(u, namespace, func(b *binding) bool {
		rules := p.roles[b.role]
		ok = slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool { return allows(&rule, r) })
		if ok {
			by = b.String()
		}
		return !ok
	})
	return by, ok
}

// String is the binding as reasons name it.
func (b *binding) String() string {
	kind, at := "ClusterRoleBinding", b.at.Name
	if b.at.Namespace != "" {
		kind, at = "RoleBinding", b.at.Name+"/"+b.at.Namespace
	}
	return fmt.Sprintf("RBAC: allowed by %s %q of %s %q", kind, at, b.ref.Kind, b.ref.Name)
}

// Rules are all that a user is given in a namespace, or in the whole cluster for
// "". They are shared: not to be changed.
func (p *Policy) Rules(u User, namespace string) []rbacv1.PolicyRule {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var found []*binding
	p.of(u, namespace, func(b *binding) bool {
		found = append(found, b)
		return true
	})
	slices.SortFunc(found, func(a, b *binding) int { return strings.Compare(a.at.String(), b.at.String()) })
	var out []rbacv1.PolicyRule
	for _, b := range slices.Compact(found) {
		out = append(out, p.roles[b.role]...)
	}
	return out
}

// Role answers with the rules of the role that a binding in a namespace names;
// false when there is none.
func (p *Policy) Role(namespace string, ref rbacv1.RoleRef) ([]rbacv1.PolicyRule, bool) {
	if ref.Kind == "ClusterRole" {
		namespace = ""
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	rules, ok := p.roles[types.NamespacedName{Namespace: namespace, Name: ref.Name}]
	return rules, ok
}
