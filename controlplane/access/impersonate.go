package access

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/rbac"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// unknown is the group of who is not known, whom somebody may speak for.
const unknown = "system:unauthenticated"

const anonymous = "system:anonymous"

// What is impersonated, as resources of which only the verb impersonate is asked.
var (
	users  = &api.Resource{Version: "v1", Kind: "User", Plural: "users"}
	groups = &api.Resource{Version: "v1", Kind: "Group", Plural: "groups"}
	uids   = &api.Resource{Group: authenticationv1.GroupName, Version: "v1", Kind: "UID", Plural: "uids"}
	extras = &api.Resource{Group: authenticationv1.GroupName, Version: "v1", Kind: "UserExtra", Plural: "userextras"}
)

// impersonate is whom u speaks for in a request, u itself unless it says.
func (g *Gate) impersonate(r *http.Request, u User) (User, error) {
	as := User{Name: r.Header.Get(authenticationv1.ImpersonateUserHeader), UID: r.Header.Get(authenticationv1.ImpersonateUIDHeader)}
	as.Groups = slices.Clone(r.Header.Values(authenticationv1.ImpersonateGroupHeader))
	for key, values := range r.Header {
		name, ok := strings.CutPrefix(strings.ToLower(key), strings.ToLower(authenticationv1.ImpersonateUserExtraHeaderPrefix))
		if !ok {
			continue
		}
		if text, err := url.PathUnescape(name); err == nil {
			name = text
		}
		if as.Extra == nil {
			as.Extra = map[string][]string{}
		}
		as.Extra[name] = append(as.Extra[name], values...)
	}
	if as.Name == "" {
		if len(as.Groups) > 0 || as.UID != "" || len(as.Extra) > 0 {
			return User{}, apierrors.NewBadRequest("who is impersonated has to be named: the header " + authenticationv1.ImpersonateUserHeader + " is missing")
		}
		return u, nil
	}
	for _, q := range toImpersonate(as) {
		q.Verb = "impersonate"
		if err := g.Allow(r.Context(), u, q); err != nil {
			return User{}, err
		}
	}
	namespace, _, isAccount := account(as.Name)
	if isAccount && len(as.Groups) == 0 {
		as.Groups = AccountGroups(namespace)
	}
	if as.Name == anonymous {
		as.Groups = append(as.Groups, unknown)
	}
	as.Groups = known(as.Groups)
	return as, nil
}

// toImpersonate are the requests that have to be allowed for it.
func toImpersonate(as User) []Request {
	out := []Request{{Resource: users, Name: as.Name}}
	if namespace, name, ok := account(as.Name); ok {
		out[0] = Request{Resource: api.ServiceAccounts, Namespace: namespace, Name: name}
	}
	for _, name := range as.Groups {
		out = append(out, Request{Resource: groups, Name: name})
	}
	if as.UID != "" {
		out = append(out, Request{Resource: uids, Name: as.UID})
	}
	for key, values := range as.Extra {
		for _, v := range values {
			out = append(out, Request{Resource: extras, Subresource: key, Name: v})
		}
	}
	return out
}

// account is the service account that a user's name stands for.
func account(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, rbac.AccountPrefix)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, ":")
}

// AccountGroups are the groups of a namespace's service accounts.
func AccountGroups(namespace string) []string { return []string{Accounts, Accounts + ":" + namespace} }
