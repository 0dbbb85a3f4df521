package api

import (
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// The kinds that say who may do what.
var (
	ServiceAccounts = &Resource{
		Version: "v1", Kind: "ServiceAccount", Plural: "serviceaccounts", Singular: "serviceaccount", Short: []string{"sa"}, Namespaced: true,
		New: func() Object { return &corev1.ServiceAccount{} }, NewList: func() runtime.Object { return &corev1.ServiceAccountList{} },
	}
	Roles = &Resource{
		Group: rbacv1.GroupName, Version: "v1", Kind: "Role", Plural: "roles", Singular: "role", Namespaced: true,
		New: func() Object { return &rbacv1.Role{} }, NewList: func() runtime.Object { return &rbacv1.RoleList{} },
	}
	RoleBindings = &Resource{
		Group: rbacv1.GroupName, Version: "v1", Kind: "RoleBinding", Plural: "rolebindings", Singular: "rolebinding", Namespaced: true,
		New: func() Object { return &rbacv1.RoleBinding{} }, NewList: func() runtime.Object { return &rbacv1.RoleBindingList{} },
	}
	ClusterRoles = &Resource{
		Group: rbacv1.GroupName, Version: "v1", Kind: "ClusterRole", Plural: "clusterroles", Singular: "clusterrole",
		New: func() Object { return &rbacv1.ClusterRole{} }, NewList: func() runtime.Object { return &rbacv1.ClusterRoleList{} },
	}
	ClusterRoleBindings = &Resource{
		Group: rbacv1.GroupName, Version: "v1", Kind: "ClusterRoleBinding", Plural: "clusterrolebindings", Singular: "clusterrolebinding",
		New: func() Object { return &rbacv1.ClusterRoleBinding{} }, NewList: func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
	}
)

// Names that come with service accounts.
const (
	// DefaultAccount is the service account of pods that name none.
	DefaultAccount = "default"
	// RootCA is the ConfigMap in each namespace with the authority by which the API
	// server is known, under the key RootCAKey.
	RootCA    = "kube-root-ca.crt"
	RootCAKey = "ca.crt"
)
