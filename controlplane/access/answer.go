package access

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/podsnap/podsnap/api"
)

// Resources of which the API stores no objects: it answers when they are asked for.
var (
	NodeMetrics = &api.Resource{Group: "metrics.k8s.io", Version: "v1beta1", Kind: "NodeMetrics", Plural: "nodes"}
	PodMetrics  = &api.Resource{Group: "metrics.k8s.io", Version: "v1beta1", Kind: "PodMetrics", Plural: "pods", Namespaced: true}

	SelfSubjectReviews = &api.Resource{Group: authenticationv1.GroupName, Version: "v1", Kind: "SelfSubjectReview", Plural: "selfsubjectreviews", Singular: "selfsubjectreview"}
	TokenReviews       = &api.Resource{Group: authenticationv1.GroupName, Version: "v1", Kind: "TokenReview", Plural: "tokenreviews", Singular: "tokenreview"}

	LocalSubjectAccessReviews = &api.Resource{Group: authorizationv1.GroupName, Version: "v1", Kind: "LocalSubjectAccessReview", Plural: "localsubjectaccessreviews", Singular: "localsubjectaccessreview", Namespaced: true}
	SelfSubjectAccessReviews  = &api.Resource{Group: authorizationv1.GroupName, Version: "v1", Kind: "SelfSubjectAccessReview", Plural: "selfsubjectaccessreviews", Singular: "selfsubjectaccessreview"}
	SelfSubjectRulesReviews   = &api.Resource{Group: authorizationv1.GroupName, Version: "v1", Kind: "SelfSubjectRulesReview", Plural: "selfsubjectrulesreviews", Singular: "selfsubjectrulesreview"}
	SubjectAccessReviews      = &api.Resource{Group: authorizationv1.GroupName, Version: "v1", Kind: "SubjectAccessReview", Plural: "subjectaccessreviews", Singular: "subjectaccessreview"}
)
