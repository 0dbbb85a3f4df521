package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/test/platform"
)

// anyServer is what a Kubernetes API says whose kinds and users are made through one
// server and asked for through others.
type anyServer struct {
	t     *testing.T
	token string // of the service account default in default
}

const (
	widgets    = "/apis/test.podsnap.dev/v1/namespaces/default/widgets"
	definition = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"widgets.test.podsnap.dev"},
"spec":{"group":"test.podsnap.dev","scope":"Namespaced","names":{"plural":"widgets","kind":"Widget"},"versions":[{"name":"v1","served":true,"storage":true,
"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"size":{"type":"integer","minimum":1}}}}}}}]}}`
	widget  = `{"apiVersion":"test.podsnap.dev/v1","kind":"Widget","metadata":{"name":"%s"},"spec":{"size":%d}}`
	binding = `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"view"},
"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"},"subjects":[{"kind":"ServiceAccount","name":"default","namespace":"default"}]}`
	tokenPod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"asks"},"spec":{"nodeName":"%s","containers":[{"name":"main","image":"witness:latest","imagePullPolicy":"Never"}]}}`
)

// ask sends a request through a server; without a token as an administrator.
func (a *anyServer) ask(n *Node, token, method, path, body string) (*http.Response, error) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), method, n.API+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	c := n.admin()
	if token != "" {
		c.Transport = bearer{c.Transport.(bearer).RoundTripper, token}
	}
	return c.Do(req)
}

// wants is ask until the answer has a code and some text.
func (a *anyServer) wants(n *Node, token, method, path, body string, code int, text string) string {
	a.t.Helper()
	var got string
	platform.Eventually(a.t, patience, func() error {
		resp, err := a.ask(n, token, method, path, body)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if got = string(b); resp.StatusCode != code || !strings.Contains(got, text) {
			return fmt.Errorf("%s %s through %s: %d %s, want %d with %s", method, path, n.Host.Name, resp.StatusCode, got, code, text)
		}
		return nil
	})
	return got
}

// begin makes a kind through one server that does not lead and uses it through the
// other, and so with a token, which a pod on another machine gets too.
func (a *anyServer) begin(one, other, node *Node) {
	a.t.Helper()
	a.wants(one, "", "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition, 201, "widgets")
	a.wants(other, "", "POST", widgets, fmt.Sprintf(widget, "first", 3), 201, `"first"`)
	a.wants(one, "", "POST", widgets, fmt.Sprintf(widget, "none", 0), 422, "should be greater than or equal to 1")
	events, err := a.ask(one, "", "GET", widgets+"?watch=true&resourceVersion=0", "")
	if err != nil {
		a.t.Fatal(err)
	}
	defer events.Body.Close()
	a.wants(other, "", "POST", widgets, fmt.Sprintf(widget, "second", 4), 201, `"second"`)
	lines := bufio.NewScanner(events.Body)
	for _, want := range []string{"first", "second"} {
		if !lines.Scan() || !strings.Contains(lines.Text(), `"ADDED"`) || !strings.Contains(lines.Text(), `"`+want+`"`) {
			a.t.Fatalf("an event through %s: %s, %v; want that %s is added", one.Host.Name, lines.Text(), lines.Err(), want)
		}
	}

	made := a.wants(other, "", "POST", "/api/v1/namespaces/default/serviceaccounts/default/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}`, 201, "token")
	var q struct {
		Status struct{ Token string }
	}
	if err := json.Unmarshal([]byte(made), &q); err != nil {
		a.t.Fatal(err)
	}
	a.token = q.Status.Token
	a.wants(one, a.token, "GET", "/api/v1/namespaces/default/pods", "", 403, "system:serviceaccount:default:default")
	a.wants(one, "", "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding, 201, "view")
	a.wants(other, a.token, "GET", "/api/v1/namespaces/default/pods", "", 200, "PodList")
	a.wants(other, a.token, "GET", "/api/v1/namespaces/default/secrets", "", 403, "cannot list")

	// Its volumes are there when it runs, and one of them has a token.
	a.wants(one, "", "POST", "/api/v1/namespaces/default/pods", fmt.Sprintf(tokenPod, node.Host.Name), 201, "kube-api-access-")
	a.wants(other, a.token, "GET", "/api/v1/namespaces/default/pods/asks", "", 200, `"phase":"Running"`)
}

// still is what is left of that when another server leads.
func (a *anyServer) still(through ...*Node) {
	a.t.Helper()
	for _, n := range through {
		a.wants(n, a.token, "GET", "/api/v1/namespaces/default/pods", "", 200, "asks")
		a.wants(n, "", "GET", widgets+"/second", "", 200, `"size":4`)
		a.wants(n, "", "POST", widgets, fmt.Sprintf(widget, "none", 0), 422, "greater than or equal to 1")
	}
}
