package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/account"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/controller/role"
	"github.com/podsnap/podsnap/controlplane/rbac"
	"github.com/podsnap/podsnap/controlplane/view"
)

// guarded is a server with roles and service accounts, put together as a platform's.
type guarded struct {
	*Server
	objects *memory.Objects
	desk    *account.Desk
}

func newGuarded(t *testing.T) guarded {
	t.Helper()
	gate := &access.Gate{Token: "secret", Roles: rbac.New()}
	var o *memory.Objects
	admit := func(ctx context.Context, op rules.Op, r *api.Resource, old, obj api.Object, sub string) error {
		return account.Admit(gate.Guard(admission.Admit), func(ctx context.Context, ns, name string) (*corev1.ServiceAccount, error) {
			return api.Get[*corev1.ServiceAccount](ctx, o, api.ServiceAccounts, ns, name)
		})(ctx, op, r, old, obj, sub)
	}
	o = memory.New(memory.Config{Admit: admit, Namespaces: true})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	desk, err := account.New(account.Config{Objects: o, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	gate.Objects, gate.Account = o, desk.User
	v := view.New(o, nil, nil)
	roles := role.New(role.Config{Objects: o, View: v, Policy: gate.Roles})
	gate.Synced = []<-chan struct{}{v.Roles.Synced(), v.RoleBindings.Synced(), v.ClusterRoles.Synced(), v.ClusterRoleBindings.Synced()}
	for _, ns := range []string{"default", "d"} {
		if _, err := o.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := role.Ensure(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- v.Run(ctx) }()
	go func() { done <- roles.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; <-done })
	return guarded{server(t, Config{Objects: o, Gate: gate, Accounts: desk, Judge: admit}), o, desk}
}

func (g guarded) create(t *testing.T, objs ...api.Object) {
	t.Helper()
	for _, obj := range objs {
		if _, err := g.objects.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

// until asks again until what is asked for holds: what roles allow
// is followed by a watch.
func until(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("it does not come about")
		}
	}
}

func account1(name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}}
}

func roleTo(name string, verbs []string, resources ...string) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}, Rules: []rbacv1.PolicyRule{{Verbs: verbs, APIGroups: []string{""}, Resources: resources}}}
}

func bound(name, kind, to string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}, RoleRef: rbacv1.RoleRef{Kind: kind, Name: to}, Subjects: subjects}
}

// TestServiceAccountMayWhatItsRoleSays asks with a token.
func TestServiceAccountMayWhatItsRoleSays(t *testing.T) {
	g := newGuarded(t)
	bot := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: "bot"}
	g.create(t, account1("bot"), roleTo("reader", []string{"get", "list"}, "configmaps"), bound("bot", "Role", "reader", bot))
	token := func(audiences ...string) string {
		q, err := g.desk.Issue(t.Context(), "d", "bot", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}})
		if err != nil {
			t.Fatal(err)
		}
		return q.Status.Token
	}
	good := "Authorization: Bearer " + token()
	until(t, func() bool { return ask(t, g, "GET", cms, "", good).Code == 200 })
	const forbidden = ` is forbidden: User "system:serviceaccount:d:bot" cannot `
	for _, c := range []struct {
		name, method, path, body, auth string
		code                           int
		says                           string
	}{
		{"a list", "GET", cms, "", good, 200, ""},
		{"a watch", "GET", cms + "?watch=true", "", good, 403, "configmaps" + forbidden + `watch resource "configmaps" in API group "" in the namespace "d"`},
		{"elsewhere", "GET", "/api/v1/namespaces/default/configmaps", "", good, 403, `in the namespace "default"`},
		{"everywhere", "GET", "/api/v1/configmaps", "", good, 403, "configmaps" + forbidden + `list resource "configmaps" in API group "" at the cluster scope`},
		{"one of the cluster", "GET", "/api/v1/nodes/n", "", good, 403, `nodes "n"` + forbidden + `get resource "nodes" in API group "" at the cluster scope`},
		{"a write", "POST", cms, "{}", good, 403, `cannot create resource "configmaps"`},
		{"another group", "GET", "/apis/apps/v1/namespaces/d/deployments", "", good, 403, `deployments.apps` + forbidden + `list resource "deployments" in API group "apps" in the namespace "d"`},
		{"use of pods", "GET", "/apis/metrics.k8s.io/v1beta1/namespaces/d/pods", "", good, 403, `resource "pods" in API group "metrics.k8s.io"`},
		{"what the API is like", "GET", "/apis", "", good, 200, ""},
		{"openapi", "GET", "/openapi/v3", "", good, 200, ""},
		{"no such path", "GET", "/apis/nothing", "", good, 404, ""},
		{"its keys", "GET", account.KeysPath, "", good, 200, `"kty":"EC"`},
		{"its issuer", "GET", account.ConfigurationPath, "", good, 200, account.Issuer},
		{"another namespace's name", "GET", "/api/v1/namespaces/d", "", good, 403, `namespaces "d"` + forbidden + `get resource "namespaces" in API group "" in the namespace "d"`},
		{"for somebody else", "GET", cms, "", "Authorization: Bearer " + token("vault"), 401, "Unauthorized"},
		{"half a token", "GET", cms, "", good[:len(good)-4], 401, "Unauthorized"},
		{"nobody", "GET", cms, "", "X: y", 401, "Unauthorized"},
	} {
		w := ask(t, g, c.method, c.path, c.body, c.auth)
		if w.Code != c.code || !strings.Contains(w.Body.String(), strings.ReplaceAll(c.says, `"`, `\"`)) && !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: %d %s, want %d with %s", c.name, w.Code, w.Body, c.code, c.says)
		}
	}
	if _, err := g.objects.Delete(t.Context(), api.ServiceAccounts, "d", "bot", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if w := ask(t, g, "GET", cms, "", good); w.Code != 401 {
		t.Errorf("a token of an account that is gone: %d %s", w.Code, w.Body)
	}
}

// TestNobodyGivesAwayWhatHeHasNot writes roles and bindings as somebody with the role
// admin in a namespace, and as one who may escalate and bind.
func TestNobodyGivesAwayWhatHeHasNot(t *testing.T) {
	g := newGuarded(t)
	jane := rbacv1.Subject{Kind: rbacv1.UserKind, Name: "jane"}
	g.create(t, bound("jane", "ClusterRole", "admin", jane),
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "binder"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"bind"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"}, ResourceNames: []string{"cluster-admin"}},
			{Verbs: []string{"escalate", "create"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles", "rolebindings"}},
		}},
		bound("joe", "Role", "binder", rbacv1.Subject{Kind: rbacv1.UserKind, Name: "joe"}))
	const root = "/apis/rbac.authorization.k8s.io/v1/namespaces/d/"
	as := func(user, method, path, body string) *httptest.ResponseRecorder {
		return ask(t, g, method, path, body, "Authorization: Bearer secret", "Impersonate-User: "+user)
	}
	// Admin is made of edit, which is made of view: her roles grow step by step.
	until(t, func() bool {
		return as("jane", "GET", root+"roles", "").Code == 200 && as("jane", "GET", "/api/v1/namespaces/d/pods", "").Code == 200
	})
	roleOf := func(name, resource string) string {
		return `{"metadata":{"name":"` + name + `"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["` + resource + `"]}]}`
	}
	bindingOf := func(name, kind, to string) string {
		return `{"metadata":{"name":"` + name + `"},"roleRef":{"kind":"` + kind + `","name":"` + to + `"},"subjects":[{"kind":"User","name":"x"}]}`
	}
	for _, c := range []struct {
		name, user, method, path, body string
		code                           int
		says                           string
	}{
		{"what she has", "jane", "POST", "roles", roleOf("pods", "pods"), 201, ""},
		{"what she has not", "jane", "POST", "roles", roleOf("nodes", "nodes"), 403, "attempting to grant RBAC permissions not currently held"},
		{"a change to what she has not", "jane", "PUT", "roles/pods", roleOf("pods", "nodes"), 403, "not currently held"},
		{"a patch to it", "jane", "PATCH", "roles/pods", `{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`, 403, "not currently held"},
		{"a dry run of it", "jane", "POST", "roles?dryRun=All", roleOf("nodes", "nodes"), 403, "not currently held"},
		{"a binding of what she has", "jane", "POST", "rolebindings", bindingOf("view", "ClusterRole", "view"), 201, ""},
		{"of what she has not", "jane", "POST", "rolebindings", bindingOf("all", "ClusterRole", "cluster-admin"), 403, "not currently held"},
		{"of what is not there", "jane", "POST", "rolebindings", bindingOf("none", "Role", "none"), 404, "not found"},
		{"another role in a binding", "jane", "PUT", "rolebindings/view", bindingOf("view", "ClusterRole", "edit"), 422, "cannot change roleRef"},
		{"who may bind", "joe", "POST", "rolebindings", bindingOf("bound", "ClusterRole", "cluster-admin"), 201, ""},
		{"who may bind something else", "joe", "POST", "rolebindings", bindingOf("bound2", "ClusterRole", "admin"), 403, "not currently held"},
		{"who may escalate", "joe", "POST", "roles", roleOf("nodes", "nodes"), 201, ""},
		{"roles of the cluster", "jane", "POST", "../../clusterroles", roleOf("nodes", "nodes"), 403, "cannot create resource"},
	} {
		path := root + c.path
		if rest, ok := strings.CutPrefix(c.path, "../../"); ok {
			path = "/apis/rbac.authorization.k8s.io/v1/" + rest
		}
		headers := []string{"Authorization: Bearer secret", "Impersonate-User: " + c.user}
		if c.method == "PATCH" {
			headers = append(headers, "Content-Type: application/merge-patch+json")
		}
		if w := ask(t, g, c.method, path, c.body, headers...); w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: %d %s, want %d with %s", c.name, w.Code, w.Body, c.code, c.says)
		}
	}
	// Who speaks for others has to be allowed to, for the name and for each group.
	w := ask(t, g, "GET", "/api/v1/namespaces/d/pods", "", "Authorization: Bearer secret", "Impersonate-Group: dev")
	if w.Code != 400 {
		t.Errorf("a group without a user: %d %s", w.Code, w.Body)
	}
}

// TestOnlyWhoMayImpersonates does so as a service account.
func TestOnlyWhoMayImpersonates(t *testing.T) {
	g := newGuarded(t)
	g.create(t, account1("bot"),
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "speaker"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"impersonate"}, APIGroups: []string{""}, Resources: []string{"users"}, ResourceNames: []string{"jane"}},
			{Verbs: []string{"impersonate"}, APIGroups: []string{""}, Resources: []string{"groups"}, ResourceNames: []string{"dev"}},
		}},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "speaker"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "speaker"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "d", Name: "bot"}},
		})
	q, err := g.desk.Issue(t.Context(), "d", "bot", &authenticationv1.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	const path, body = "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}"
	as := func(headers ...string) *httptest.ResponseRecorder {
		return ask(t, g, "POST", path, body, append(headers, "Authorization: Bearer "+q.Status.Token)...)
	}
	until(t, func() bool { return as("Impersonate-User: jane").Code == 201 })
	for _, c := range []struct {
		name    string
		headers []string
		code    int
		says    string
	}{
		{"as itself", nil, 201, `"username":"system:serviceaccount:d:bot"`},
		{"as jane", []string{"Impersonate-User: jane"}, 201, `"username":"jane","groups":["system:authenticated"]`},
		{"in a group", []string{"Impersonate-User: jane", "Impersonate-Group: dev"}, 201, `"groups":["dev","system:authenticated"]`},
		{"as joe", []string{"Impersonate-User: joe"}, 403, `cannot impersonate resource \"users\"`},
		{"as a master", []string{"Impersonate-User: jane", "Impersonate-Group: system:masters"}, 403, `cannot impersonate resource \"groups\"`},
		{"as another account", []string{"Impersonate-User: system:serviceaccount:d:other"}, 403, `cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"d\"`},
		{"with more said", []string{"Impersonate-User: jane", "Impersonate-Extra-Scopes: all"}, 403, `cannot impersonate resource \"userextras/scopes\"`},
		{"with a UID", []string{"Impersonate-User: jane", "Impersonate-Uid: 1"}, 403, `cannot impersonate resource \"uids\"`},
	} {
		if w := as(c.headers...); w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: %d %s, want %d with %s", c.name, w.Code, w.Body, c.code, c.says)
		}
	}
}

// TestTokenReview has tokens judged for others.
func TestTokenReview(t *testing.T) {
	g := newGuarded(t)
	g.create(t, account1("bot"))
	q, err := g.desk.Issue(t.Context(), "d", "bot", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		spec authenticationv1.TokenReviewSpec
		want string // the user; "" is none
	}{
		{"for whom it is", authenticationv1.TokenReviewSpec{Token: q.Status.Token, Audiences: []string{"x", "vault"}}, "system:serviceaccount:d:bot"},
		{"for the API", authenticationv1.TokenReviewSpec{Token: q.Status.Token}, ""},
		{"the administrators'", authenticationv1.TokenReviewSpec{Token: "secret"}, "admin"},
		{"not one", authenticationv1.TokenReviewSpec{Token: "x.y.z"}, ""},
	} {
		body, err := json.Marshal(authenticationv1.TokenReview{Spec: c.spec})
		if err != nil {
			t.Fatal(err)
		}
		w := ask(t, g, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", string(body), "Authorization: Bearer secret")
		var got authenticationv1.TokenReview
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 201 {
			t.Fatalf("%s: %d %s", c.name, w.Code, w.Body)
		}
		if s := got.Status; s.User.Username != c.want || s.Authenticated != (c.want != "") || s.Authenticated == (s.Error != "") {
			t.Errorf("%s: %+v, want %q", c.name, s, c.want)
		}
	}
}

// TestKubectlAccess has the real kubectl make accounts, roles and tokens, and ask who
// may what.
func TestKubectlAccess(t *testing.T) {
	bin, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("kubectl is not on PATH")
	}
	g := newGuarded(t)
	srv := httptest.NewUnstartedServer(g)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	config := func(token string) string {
		path := filepath.Join(dir, "config-"+token[len(token)-4:])
		text := "apiVersion: v1\nkind: Config\ncurrent-context: c\n" +
			"clusters: [{name: c, cluster: {server: '" + srv.URL + "', certificate-authority-data: '" + ca + "'}}]\n" +
			"contexts: [{name: c, context: {cluster: c, user: u, namespace: d}}]\nusers: [{name: u, user: {token: " + token + "}}]\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(config, stdin, want string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), bin, append([]string{"--kubeconfig", config, "--cache-dir", filepath.Join(dir, "cache")}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, _ := cmd.CombinedOutput() // can-i ends with 1 for no
		if !strings.Contains(string(out), want) {
			t.Errorf("kubectl %s:\n%s\nwant %q", strings.Join(args, " "), out, want)
		}
		return strings.TrimSpace(string(out))
	}
	admin := config("secret")
	run(admin, "", "created", "create", "serviceaccount", "bot")
	run(admin, "", "created", "create", "role", "reader", "--verb=get,list", "--resource=pods,pods/log")
	run(admin, "", "created", "create", "rolebinding", "bot", "--role=reader", "--serviceaccount=d:bot")
	run(admin, "", "created", "create", "clusterrole", "nodes", "--verb=list", "--resource=nodes")
	run(admin, "", "created", "create", "clusterrolebinding", "jane", "--clusterrole=nodes", "--user=jane")
	token := run(admin, "", "ey", "create", "token", "bot", "--duration=10m")
	bot := config(token)
	until(t, func() bool {
		return ask(t, g, "GET", "/api/v1/namespaces/d/pods", "", "Authorization: Bearer "+token).Code == 200
	})
	run(bot, "", "No resources found in d namespace", "get", "pods")
	run(bot, "", `Error from server (Forbidden): secrets is forbidden: User "system:serviceaccount:d:bot" cannot list resource "secrets" in API group "" in the namespace "d"`, "get", "secrets")
	run(bot, "", "yes", "auth", "can-i", "get", "pods", "--subresource=log")
	run(bot, "", "no", "auth", "can-i", "delete", "pods")
	run(bot, "", "selfsubjectaccessreviews.authorization.k8s.io", "auth", "can-i", "--list")
	run(bot, "", "system:serviceaccount:d:bot", "auth", "whoami")
	run(admin, "", "system:masters", "auth", "whoami")
	run(admin, "", "yes", "auth", "can-i", "list", "nodes", "--as=jane")
	run(admin, "", "no", "auth", "can-i", "list", "secrets", "--as=jane", "--as-group=dev")
	run(bot, "", `cannot impersonate resource "users"`, "get", "pods", "--as=jane")
	run(admin, "", "Role/reader", "get", "rolebinding", "bot", "-o", "wide")
	run(admin, "", "d/bot", "get", "rolebinding", "bot", "-o", "wide")
	run(admin, "", "cluster-admin", "get", "clusterroles")
	run(admin, "", "pods/log", "describe", "role", "reader")
	run(admin, `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader, namespace: d}, rules: [{verbs: [get], apiGroups: [""], resources: [configmaps]}]}`,
		"reconciled", "auth", "reconcile", "-f", "-")
	run(admin, "", "configmaps", "describe", "role", "reader")
}
