package apiserver

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

// accessColumns are those of the kinds that say who may do what. Roles show when they
// were made, not how long ago.
func accessColumns(r *api.Resource, name, since column) []column {
	created := column{
		metav1.TableColumnDefinition{Name: "Created At", Type: "string"},
		func(obj api.Object, _ time.Time) any {
			return obj.GetCreationTimestamp().UTC().Format(time.RFC3339)
		},
	}
	switch r {
	case api.ServiceAccounts:
		return []column{name, col("Secrets", "integer", func(a *corev1.ServiceAccount) any { return len(a.Secrets) }), since}
	case api.RoleBindings:
		return bindingColumns(name, since, func(b *rbacv1.RoleBinding) (rbacv1.RoleRef, []rbacv1.Subject) { return b.RoleRef, b.Subjects })
	case api.ClusterRoleBindings:
		return bindingColumns(name, since, func(b *rbacv1.ClusterRoleBinding) (rbacv1.RoleRef, []rbacv1.Subject) { return b.RoleRef, b.Subjects })
	}
	return []column{name, created}
}

func bindingColumns[T api.Object](name, since column, of func(T) (rbacv1.RoleRef, []rbacv1.Subject)) []column {
	names := func(kind string) func(T) any {
		return func(b T) any {
			var out []string
			_, subjects := of(b)
			for _, s := range subjects {
				switch {
				case s.Kind != kind:
				case s.Namespace != "":
					out = append(out, s.Namespace+"/"+s.Name)
				default:
					out = append(out, s.Name)
				}
			}
			return strings.Join(slices.Compact(out), ", ")
		}
	}
	return []column{
		name,
		col("Role", "string", func(b T) any { ref, _ := of(b); return ref.Kind + "/" + ref.Name }),
		since,
		wide("Users", names(rbacv1.UserKind)), wide("Groups", names(rbacv1.GroupKind)), wide("ServiceAccounts", names(rbacv1.ServiceAccountKind)),
	}
}
