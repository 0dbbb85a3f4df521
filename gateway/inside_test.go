package gateway

import "testing"

func TestFunctionOf(t *testing.T) {
	for host, want := range map[string]string{
		"hello.openfaas-fn":                 "openfaas-fn/hello",
		"hello.openfaas-fn:8080":            "openfaas-fn/hello",
		"Hello.Dev.svc.cluster.local.:8080": "dev/hello",
		"hello.dev.svc":                     "dev/hello",
		"hello":                             "openfaas-fn/hello",
		"hello:8080":                        "openfaas-fn/hello",
		"localhost:8080":                    "",
		"gateway.openfaas:8080":             "",
		"127.0.0.1:8080":                    "",
		"[::1]:8080":                        "",
		"::1":                               "",
		"":                                  "",
		"www.example.com":                   "",
		".svc.cluster.local":                "",
		"hello.":                            "openfaas-fn/hello",
	} {
		k, ok := functionOf(host)
		got := ""
		if ok {
			got = k.Namespace + "/" + k.Name
		}
		if got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}
