package gateway_test

import (
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/internal/openfaas"
)

// TestClient uses every method of the client against the real gateway.
func TestClient(t *testing.T) {
	r := newRig(t, nil)
	ctx, c := t.Context(), r.client
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Healthz(ctx))
	info, err := c.Info(ctx)
	must(err)
	if info.Provider.Name == "faasd" || info.Version.Release != "1.2.3" || info.Arch == "" {
		t.Errorf("info %+v", info)
	}

	must(c.CreateNamespace(ctx, openfaas.Namespace{Name: "dev", Labels: map[string]string{"team": "a"}}))
	must(c.UpdateNamespace(ctx, openfaas.Namespace{Name: "dev", Labels: map[string]string{"team": "b"}}))
	ns, err := c.Namespace(ctx, "dev")
	must(err)
	if ns.Labels["team"] != "b" || ns.Labels["openfaas"] != "1" {
		t.Errorf("namespace %+v", ns)
	}
	names, err := c.Namespaces(ctx)
	must(err)
	if !slices.Equal(names, []string{"dev", "openfaas-fn"}) {
		t.Errorf("namespaces %q", names)
	}
	if err := c.CreateNamespace(ctx, openfaas.Namespace{Name: "dev"}); !openfaas.IsConflict(err) {
		t.Errorf("a second time: %v", err)
	}

	must(c.CreateSecret(ctx, openfaas.Secret{Name: "key", Namespace: "dev", RawValue: []byte{0, 1}}))
	must(c.UpdateSecret(ctx, openfaas.Secret{Name: "key", Namespace: "dev", Value: "v"}))
	secrets, err := c.Secrets(ctx, "dev")
	must(err)
	if len(secrets) != 1 || secrets[0].Name != "key" || secrets[0].Value != "" || secrets[0].RawValue != nil {
		t.Errorf("secrets %+v", secrets)
	}

	must(c.Create(ctx, openfaas.FunctionDeployment{Service: "hi", Namespace: "dev", Image: "x:1", Secrets: []string{"key"}}))
	must(c.Scale(ctx, "dev", "hi", 3))
	f, err := c.Function(ctx, "dev", "hi", true)
	must(err)
	if f.Replicas != 3 {
		t.Errorf("replicas %d", f.Replicas)
	}
	resp, err := c.Invoke(ctx, openfaas.Invocation{Namespace: "dev", Name: "hi", Method: "PUT", Path: "a/b"})
	must(err)
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(b) != "PUT /a/b " {
		t.Errorf("answer %q", b)
	}
	fns, err := c.Functions(ctx, "dev")
	must(err)
	if len(fns) != 1 || fns[0].InvocationCount != 1 {
		t.Errorf("functions %+v", fns)
	}

	must(c.Delete(ctx, "dev", "hi"))
	must(c.DeleteSecret(ctx, "dev", "key"))
	must(c.DeleteNamespace(ctx, "dev"))
	if _, err := c.Function(ctx, "", "hi", false); !openfaas.IsNotFound(err) {
		t.Errorf("a function that is not there: %v", err)
	}
	c = &openfaas.Client{URL: r.url + "/", HTTP: c.HTTP}
	if _, err := c.Functions(ctx, ""); openfaas.StatusOf(err) != http.StatusUnauthorized {
		t.Errorf("without credentials: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := gateway.New(gateway.Config{}); err == nil {
		t.Error("a gateway on nothing")
	}
}
