package openfaas

import (
	"context"
	"maps"
	"net/http"
	"net/url"

	"github.com/podsnap/podsnap/api"
)

// Functions lists the functions of a namespace.
func (c *Client) Functions(ctx context.Context, namespace string) ([]FunctionStatus, error) {
	var out []FunctionStatus
	err := c.do(ctx, call{op: "list functions", method: http.MethodGet, path: "/system/functions", query: inNamespace(namespace), out: &out})
	return out, err
}

// Function describes one function; with usage set, with what its replicas use.
func (c *Client) Function(ctx context.Context, namespace, name string, usage bool) (*FunctionStatus, error) {
	q := inNamespace(namespace)
	if usage {
		q.Set("usage", "1")
	}
	out := &FunctionStatus{}
	err := c.do(ctx, call{op: "get function " + name, method: http.MethodGet, path: "/system/function/" + url.PathEscape(name), query: q, out: out})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Decisions are the last ones on a function's number of replicas, oldest first.
// It is an addition to the API: GET /system/function/{name}/decisions.
func (c *Client) Decisions(ctx context.Context, namespace, name string) ([]api.ScaleDecision, error) {
	var out []api.ScaleDecision
	err := c.do(ctx, call{
		op: "get the decisions on function " + name, method: http.MethodGet,
		path: "/system/function/" + url.PathEscape(name) + "/decisions", query: inNamespace(namespace), out: &out,
	})
	return out, err
}

// Create deploys a function that must not exist.
func (c *Client) Create(ctx context.Context, d FunctionDeployment) error {
	return c.deploy(ctx, http.MethodPost, "create", d)
}

// Update deploys a function that must exist.
func (c *Client) Update(ctx context.Context, d FunctionDeployment) error {
	return c.deploy(ctx, http.MethodPut, "update", d)
}

// Deploy updates a function or, when it does not exist, creates it.
func (c *Client) Deploy(ctx context.Context, d FunctionDeployment) (created bool, err error) {
	err = c.Update(ctx, d)
	if IsNotFound(err) {
		return true, c.Create(ctx, d)
	}
	return false, err
}

func (c *Client) deploy(ctx context.Context, method, verb string, d FunctionDeployment) error {
	d.Namespace = orDefault(d.Namespace)
	return c.do(ctx, call{op: verb + " function " + d.Service, method: method, path: "/system/functions", query: inNamespace(d.Namespace), in: d})
}

// Delete removes a function.
func (c *Client) Delete(ctx context.Context, namespace, name string) error {
	return c.do(ctx, call{
		op: "delete function " + name, method: http.MethodDelete, path: "/system/functions",
		query: inNamespace(namespace), in: DeleteRequest{FunctionName: name, Namespace: orDefault(namespace)},
	})
}

// Scale sets the number of replicas.
func (c *Client) Scale(ctx context.Context, namespace, name string, replicas uint64) error {
	return c.do(ctx, call{
		op: "scale function " + name, method: http.MethodPost, path: "/system/scale-function/" + url.PathEscape(name),
		query: inNamespace(namespace), in: ScaleRequest{ServiceName: name, Namespace: orDefault(namespace), Replicas: replicas},
	})
}

// Info describes the platform.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	out := &Info{}
	if err := c.do(ctx, call{op: "get info", method: http.MethodGet, path: "/system/info", out: out}); err != nil {
		return nil, err
	}
	return out, nil
}

// Healthz is nil when the gateway serves.
func (c *Client) Healthz(ctx context.Context) error {
	return c.do(ctx, call{op: "check health", method: http.MethodGet, path: "/healthz"})
}

// Namespaces lists the names of the namespaces for functions.
func (c *Client) Namespaces(ctx context.Context) ([]string, error) {
	var out []string
	err := c.do(ctx, call{op: "list namespaces", method: http.MethodGet, path: "/system/namespaces", out: &out})
	return out, err
}

// Namespace describes one namespace.
func (c *Client) Namespace(ctx context.Context, name string) (*Namespace, error) {
	out := &Namespace{}
	if err := c.do(ctx, call{op: "get namespace " + name, method: http.MethodGet, path: namespacePath(name), out: out}); err != nil {
		return nil, err
	}
	return out, nil
}

// CreateNamespace makes a namespace; the label and annotation that mark it as
// one for functions are added.
func (c *Client) CreateNamespace(ctx context.Context, n Namespace) error {
	return c.do(ctx, call{op: "create namespace " + n.Name, method: http.MethodPost, path: "/system/namespace/", in: marked(n)})
}

// UpdateNamespace replaces the labels and annotations of a namespace.
func (c *Client) UpdateNamespace(ctx context.Context, n Namespace) error {
	return c.do(ctx, call{op: "update namespace " + n.Name, method: http.MethodPut, path: namespacePath(n.Name), in: marked(n)})
}

// DeleteNamespace removes a namespace and everything in it.
func (c *Client) DeleteNamespace(ctx context.Context, name string) error {
	return c.do(ctx, call{op: "delete namespace " + name, method: http.MethodDelete, path: namespacePath(name), in: marked(Namespace{Name: name})})
}

func namespacePath(name string) string { return "/system/namespace/" + url.PathEscape(name) }

func marked(n Namespace) Namespace {
	with := func(m map[string]string) map[string]string {
		out := map[string]string{"openfaas": "1"}
		maps.Copy(out, m)
		return out
	}
	n.Labels, n.Annotations = with(n.Labels), with(n.Annotations)
	return n
}

// Secrets lists the secrets of a namespace, without their values.
func (c *Client) Secrets(ctx context.Context, namespace string) ([]Secret, error) {
	var out []Secret
	err := c.do(ctx, call{op: "list secrets", method: http.MethodGet, path: "/system/secrets", query: inNamespace(namespace), out: &out})
	return out, err
}

// CreateSecret makes a secret that must not exist.
func (c *Client) CreateSecret(ctx context.Context, s Secret) error {
	return c.secret(ctx, http.MethodPost, "create", s)
}

// UpdateSecret replaces the value of a secret that must exist.
func (c *Client) UpdateSecret(ctx context.Context, s Secret) error {
	return c.secret(ctx, http.MethodPut, "update", s)
}

// DeleteSecret removes a secret.
func (c *Client) DeleteSecret(ctx context.Context, namespace, name string) error {
	return c.secret(ctx, http.MethodDelete, "delete", Secret{Name: name, Namespace: namespace})
}

func (c *Client) secret(ctx context.Context, method, verb string, s Secret) error {
	s.Namespace = orDefault(s.Namespace)
	return c.do(ctx, call{op: verb + " secret " + s.Name, method: method, path: "/system/secrets", query: inNamespace(s.Namespace), in: s})
}
