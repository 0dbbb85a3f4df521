package apiserver

import (
	"errors"
	"net/http"
	"slices"

	"github.com/go-chi/chi/v5"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/account"
	"github.com/podsnap/podsnap/controlplane/rbac"
)

// Reviews are questions that are asked by creating them: who am I, whose is this
// token, who may do what. Nothing is stored.

// review is one kind of question, and what answers it: in the object itself.
type review struct {
	*api.Resource
	empty  func() runtime.Object
	answer func(s *Server, r *http.Request, q runtime.Object) error
}

func reviews() []review {
	return []review{
		{access.SelfSubjectReviews, func() runtime.Object { return &authenticationv1.SelfSubjectReview{} }, (*Server).reviewSelf},
		{access.TokenReviews, func() runtime.Object { return &authenticationv1.TokenReview{} }, (*Server).reviewToken},
		{access.LocalSubjectAccessReviews, func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} }, (*Server).reviewAccess},
		{access.SelfSubjectAccessReviews, func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }, (*Server).reviewAccess},
		{access.SelfSubjectRulesReviews, func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }, (*Server).reviewRules},
		{access.SubjectAccessReviews, func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }, (*Server).reviewAccess},
	}
}

// reviewKinds describes those of a group to discovery.
func reviewKinds(group string) (out []metav1.APIResource) {
	for _, v := range reviews() {
		if v.Group == group {
			out = append(out, metav1.APIResource{Name: v.Plural, SingularName: v.Singular, Kind: v.Kind, Namespaced: v.Namespaced, Verbs: metav1.Verbs{"create"}})
		}
	}
	return out
}

func (s *Server) mountReviews() {
	for _, v := range reviews() {
		path := "/apis/" + v.Group + "/" + v.Version + "/"
		if v.Namespaced {
			path += "namespaces/{namespace}/"
		}
		s.mux.Post(path+v.Plural, s.plain("create", v.Plural, func(w http.ResponseWriter, r *http.Request) error {
			if err := s.cfg.Gate.Allow(r.Context(), access.Of(r.Context()), access.Request{Verb: "create", Resource: v.Resource, Namespace: chi.URLParam(r, "namespace")}); err != nil {
				return err
			}
			form, err := s.codec.accept(r, true)
			if err != nil {
				return err
			}
			q := v.empty()
			if err := s.codec.read(w, r, v.GVK(), q); err != nil {
				return err
			}
			if err := v.answer(s, r, q); err != nil {
				return err
			}
			return s.codec.write(w, form, http.StatusCreated, q)
		}))
	}
}

// info is a user as reviews show it.
func info(u access.User) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.Name, Groups: u.Groups, UID: u.UID}
	for k, v := range u.Extra {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[k] = v
	}
	return out
}

func (s *Server) reviewSelf(r *http.Request, q runtime.Object) error {
	o := q.(*authenticationv1.SelfSubjectReview)
	o.Status = authenticationv1.SelfSubjectReviewStatus{UserInfo: info(access.Of(r.Context()))}
	return nil
}

// reviewToken says whose a token is: a service account's, or the administrators'.
func (s *Server) reviewToken(r *http.Request, q runtime.Object) error {
	o := q.(*authenticationv1.TokenReview)
	o.Status = authenticationv1.TokenReviewStatus{}
	if o.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	audiences := o.Spec.Audiences
	if len(audiences) == 0 {
		audiences = []string{account.Issuer}
	}
	if slices.Contains(audiences, account.Issuer) {
		probe := &http.Request{Header: http.Header{"Authorization": {"Bearer " + o.Spec.Token}}}
		if u, ok := access.Authenticate(probe, s.cfg.Gate.Token); ok && s.cfg.Gate.Token != "" {
			o.Status.Authenticated, o.Status.User, o.Status.Audiences = true, info(u), []string{account.Issuer}
			return nil
		}
	}
	if s.cfg.Accounts == nil {
		o.Status.Error = "the token is not known"
		return nil
	}
	u, meant, err := s.cfg.Accounts.Review(r.Context(), o.Spec.Token, audiences)
	var known apierrors.APIStatus
	switch {
	case err == nil:
		u.Groups = append(u.Groups, access.Known)
		o.Status.Authenticated, o.Status.User, o.Status.Audiences = true, info(u), meant
	case apierrors.IsUnauthorized(err) && errors.As(err, &known):
		o.Status.Error = known.Status().Message
	default:
		return err
	}
	return nil
}

// reviewAccess answers the three questions whether somebody may do something.
func (s *Server) reviewAccess(r *http.Request, q runtime.Object) error {
	u := access.Of(r.Context())
	switch o := q.(type) {
	case *authorizationv1.SelfSubjectAccessReview:
		return s.review(r, u, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes, &o.Status)
	case *authorizationv1.LocalSubjectAccessReview:
		namespace := chi.URLParam(r, "namespace")
		if o.Spec.ResourceAttributes == nil || o.Spec.ResourceAttributes.Namespace != namespace {
			return apierrors.NewBadRequest("spec.resourceAttributes.namespace must match metadata.namespace, the namespace of the URL")
		}
		return s.reviewOf(r, &o.Spec, &o.Status)
	case *authorizationv1.SubjectAccessReview:
		return s.reviewOf(r, &o.Spec, &o.Status)
	}
	return nil
}

func (s *Server) reviewOf(r *http.Request, q *authorizationv1.SubjectAccessReviewSpec, to *authorizationv1.SubjectAccessReviewStatus) error {
	if q.User == "" && len(q.Groups) == 0 {
		return apierrors.NewBadRequest("at least one of spec.user or spec.groups must be specified")
	}
	return s.review(r, access.User{Name: q.User, Groups: q.Groups, UID: q.UID}, q.ResourceAttributes, q.NonResourceAttributes, to)
}

func (s *Server) review(r *http.Request, u access.User, on *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes, to *authorizationv1.SubjectAccessReviewStatus) error {
	if (on == nil) == (path == nil) {
		return apierrors.NewBadRequest("exactly one of spec.resourceAttributes and spec.nonResourceAttributes must be specified")
	}
	why, allowed, err := s.cfg.Gate.Decide(r.Context(), u, requestOf(on, path))
	*to = authorizationv1.SubjectAccessReviewStatus{Allowed: allowed, Reason: why}
	return err
}

// requestOf is the request that a question is about.
func requestOf(on *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) access.Request {
	if on == nil {
		return access.Request{Verb: path.Verb, Path: path.Path}
	}
	res := &api.Resource{Group: on.Group, Plural: on.Resource}
	for _, known := range builtIn() {
		if known.Group == on.Group && known.Plural == on.Resource {
			res = known
		}
	}
	q := access.Request{Verb: on.Verb, Resource: res, Subresource: on.Subresource, Namespace: on.Namespace, Name: on.Name}
	if f := on.FieldSelector; f != nil && f.RawSelector != "" {
		if by, err := fields.ParseSelector(f.RawSelector); err == nil {
			q.Fields = by
		}
	}
	return q
}

// reviewRules lists what who asks may do in a namespace. What a node may is not a
// list of rules.
func (s *Server) reviewRules(r *http.Request, q runtime.Object) error {
	o := q.(*authorizationv1.SelfSubjectRulesReview)
	if o.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request: spec.namespace is missing")
	}
	u := access.Of(r.Context())
	o.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: u.Node() != "",
	}
	if u.Node() != "" {
		o.Status.EvaluationError = "what a node may do depends on its pods"
		return nil
	}
	var have []rbacv1.PolicyRule
	if slices.Contains(u.Groups, access.Masters) {
		all := []string{"*"}
		have = append(have, rbacv1.PolicyRule{Verbs: all, APIGroups: all, Resources: all}, rbacv1.PolicyRule{Verbs: all, NonResourceURLs: all})
	}
	if s.cfg.Gate.Roles != nil {
		have = append(have, s.cfg.Gate.Roles.Rules(rbac.User{Name: u.Name, Groups: u.Groups}, o.Spec.Namespace)...)
	}
	for i := range have {
		rule := &have[i]
		if len(rule.NonResourceURLs) > 0 {
			o.Status.NonResourceRules = append(o.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
			continue
		}
		o.Status.ResourceRules = append(o.Status.ResourceRules, authorizationv1.ResourceRule{Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
	}
	return nil
}

// issueToken makes a token of a service account.
func (s *Server) issueToken(c *call) error {
	form, err := s.codec.accept(c.r, true)
	if err != nil {
		return err
	}
	if s.cfg.Accounts == nil {
		return apierrors.NewServiceUnavailable("this server makes no tokens of service accounts")
	}
	q := &authenticationv1.TokenRequest{}
	if err := s.codec.read(c.w, c.r, authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), q); err != nil {
		return err
	}
	if err := c.place(q); err != nil {
		return err
	}
	dry, err := isDry(c.r.URL.Query()["dryRun"])
	if err != nil {
		return err
	}
	out, err := s.cfg.Accounts.Issue(c.ctx(), c.namespace, c.name, q)
	if err != nil {
		return err
	}
	if dry {
		out.Status.Token = ""
	}
	out.SetGroupVersionKind(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"))
	return s.codec.write(c.w, form, http.StatusCreated, out)
}

// mountIssuer lays out what others judge tokens by.
func (s *Server) mountIssuer() {
	if s.cfg.Accounts == nil {
		return
	}
	s.mux.Get(account.ConfigurationPath, s.open(func(w http.ResponseWriter, _ *http.Request) error {
		writeJSON(w, http.StatusOK, s.cfg.Accounts.Configuration())
		return nil
	}))
	s.mux.Get(account.KeysPath, s.open(func(w http.ResponseWriter, _ *http.Request) error {
		keys, err := s.cfg.Accounts.Keys()
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/jwk-set+json")
		writeJSON(w, http.StatusOK, keys)
		return nil
	}))
}
