package access

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/rbac"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Gate lets requests in, and says what they may do. The zero value of every field
// but Objects is a default.
type Gate struct {
	Objects api.Objects
	// Token is the administrators'; "" lets everybody in as one.
	Token string
	// Roles are what roles allow; nil is nothing.
	Roles *rbac.Policy
	// Synced are closed when Roles are complete: nobody is refused before.
	Synced []<-chan struct{}
	// Account answers with the user that a service account's token is of, an
	// Unauthorized for one that does not count; nil: there are none.
	Account func(ctx context.Context, token string) (User, error)
}

// Who is who has sent a request, as somebody else if it says so and may. Errors are
// Unauthorized and Forbidden.
func (g *Gate) Who(r *http.Request) (User, error) {
	u, ok := Authenticate(r, g.Token)
	if !ok {
		var err error
		if u, err = g.bearer(r); err != nil {
			return User{}, err
		}
	}
	u.Groups = known(u.Groups)
	return g.impersonate(r, u)
}

func (g *Gate) bearer(r *http.Request) (User, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if g.Account == nil || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return User{}, apierrors.NewUnauthorized("Unauthorized")
	}
	u, err := g.Account(r.Context(), token)
	if apierrors.IsUnauthorized(err) {
		err = apierrors.NewUnauthorized("Unauthorized") // and not what is wrong with it
	}
	return u, err
}

// known is groups with that of all who are known.
func known(groups []string) []string {
	if slices.Contains(groups, Known) || slices.Contains(groups, unknown) {
		return groups
	}
	return append(slices.Clone(groups), Known)
}

// Allow answers with nil when a user may do what is asked for, otherwise with a
// Forbidden that says what is not allowed.
func (g *Gate) Allow(ctx context.Context, u User, r Request) error {
	why, allowed, err := g.Decide(ctx, u, r)
	if allowed || err != nil {
		return err
	}
	return forbidden(u, r, why)
}

// Decide tells whether a user may do something, and why or why not. Roles do not
// change what nodes may.
func (g *Gate) Decide(ctx context.Context, u User, r Request) (why string, allowed bool, err error) {
	if slices.Contains(u.Groups, Masters) {
		return "", true, nil
	}
	if u.Node() != "" {
		why, err = ofNode(ctx, u, r, g.Objects)
		return why, why == "" && err == nil, err
	}
	if g.Roles == nil {
		return "", false, nil
	}
	if err := g.wait(ctx); err != nil {
		return "", false, err
	}
	why, allowed = g.Roles.Allows(u.subject(), r.attributes())
	return why, allowed, nil
}

// syncTime bounds how long a question waits for the roles at a start.
const syncTime = 5 * time.Second

func (g *Gate) wait(ctx context.Context) error {
	for _, c := range g.Synced {
		select {
		case <-c:
			continue
		default:
		}
		select {
		case <-c:
		case <-time.After(syncTime):
			return apierrors.NewServiceUnavailable("what roles allow is not known yet; please try again")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// subject is the user as roles know it.
func (u User) subject() rbac.User { return rbac.User{Name: u.Name, Groups: u.Groups} }

// attributes is the request as roles know it. A namespace is in itself, so that who
// may read all in it may read it.
func (r Request) attributes() rbac.Request {
	if r.Resource == nil {
		return rbac.Request{Verb: r.Verb, Path: r.Path}
	}
	q := rbac.Request{Verb: r.Verb, Group: r.Resource.Group, Resource: r.Resource.Plural, Namespace: r.Namespace, Name: r.Name}
	if r.Subresource != "" {
		q.Resource += "/" + r.Subresource
	}
	if r.Resource == api.Namespaces {
		q.Namespace = r.Name
	}
	if name, ok := exactName(r); ok {
		q.Name = name
	}
	return q
}

// exactName is the name that a list or watch is about alone.
func exactName(r Request) (string, bool) {
	if r.Fields == nil || r.Name != "" {
		return "", false
	}
	return r.Fields.RequiresExactMatch("metadata.name")
}
