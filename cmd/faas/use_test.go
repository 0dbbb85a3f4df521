package main

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestInvoke(t *testing.T) {
	d := newDouble(t, map[string]http.HandlerFunc{
		"POST /function/hi.openfaas-fn":        answer(200, "out"),
		"GET /function/hi.dev/a/b":             answer(200, "got"),
		"POST /function/bad.openfaas-fn":       answer(500, "it broke"),
		"POST /async-function/hi.openfaas-fn":  func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Call-Id", "id-1"); w.WriteHeader(202) },
		"POST /async-function/bad.openfaas-fn": answer(503, "the queue is full"),
	})
	cli(t, "body", "invoke", "hi", "-H", "X-A=1", "-H", "X-B: 2=3", "-H", "Content-Type=application/json").want(t, 0, "out")
	for k, v := range map[string]string{"X-A": "1", "X-B": "2=3", "Content-Type": "application/json", "Authorization": ""} {
		if got := strings.Join(d.last.Values(k), ","); got != v {
			t.Errorf("header %s: %q, want %q", k, got, v)
		}
	}
	cli(t, "ignored", "invoke", "hi", "-n", "dev", "-m", "get", "--path", "/a/b", "--query", "c=d").want(t, 0, "got")
	cli(t, "later", "invoke", "hi", "-a", "--callback", "http://x/").want(t, 0, "id-1\n", "accepted")
	if got := d.last.Get("X-Callback-Url"); got != "http://x/" {
		t.Errorf("callback %q", got)
	}
	cli(t, "", "invoke", "bad").want(t, 1, "", "it broke (500)")
	cli(t, "", "invoke", "bad", "-a").want(t, 1, "", "the queue is full (503)")
	d.wantAsked(t, "POST /function/hi.openfaas-fn body", "GET /function/hi.dev/a/b?c=d", "POST /async-function/hi.openfaas-fn later",
		"POST /function/bad.openfaas-fn", "POST /async-function/bad.openfaas-fn")
}

// Standard input is sent before it ends.
func TestInvokeStreams(t *testing.T) {
	first := make(chan string, 1)
	d := newDouble(t, nil)
	in, out := io.Pipe()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 3)
		_, _ = io.ReadFull(r.Body, b)
		first <- string(b)
		_, _ = io.Copy(w, r.Body)
	}))
	defer srv.Close()
	go func() {
		_, _ = io.WriteString(out, "one")
		if got := <-first; got != "one" { // seen while stdin is open
			t.Errorf("first came %q", got)
		}
		_, _ = io.WriteString(out, "two")
		out.Close()
	}()
	cliFrom(t, in, "invoke", "hi", "-g", srv.URL).want(t, 0, "two")
	d.wantAsked(t)
}

func TestLogin(t *testing.T) {
	d := newDouble(t, map[string]http.HandlerFunc{"GET /system/functions": func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "admin" || p != "secret" {
			w.WriteHeader(401)
			return
		}
		_, _ = io.WriteString(w, "[]")
	}})
	file := filepath.Join(os.Getenv("OPENFAAS_CONFIG"), "config.yml")
	cli(t, "wrong\n", "login", "--password-stdin").want(t, 4, "", "refuses this user and password")
	cli(t, "\n", "login", "-s").want(t, 2, "", "the password is empty")
	cli(t, "", "login", "--state-dir", t.TempDir()).want(t, 2, "", "--password-stdin")
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("a login that failed is remembered: %v", err)
	}
	cli(t, "secret\n", "login", "--password-stdin").want(t, 0, "", "logged in to "+d.url+" as admin")
	b, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(b), base64.StdEncoding.EncodeToString([]byte("admin:secret"))) {
		t.Errorf("%v\n%s", err, b)
	}
	if i, err := os.Stat(file); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("mode of the login file: %v %v", i.Mode(), err)
	}
	cli(t, "", "list", "-q").want(t, 0, "")
	cli(t, "", "logout").want(t, 0, "", "logged out of "+d.url)
	cli(t, "", "logout").want(t, 0, "", "there was no login")
	write(t, file, "auths: [")
	cli(t, "", "list").want(t, 1, "", "login file "+file)
}

func TestDeployRequest(t *testing.T) {
	d := newDouble(t, map[string]http.HandlerFunc{"PUT /system/functions": answer(202, ""), "GET /system/function/hi": answer(200, `{"name":"hi"}`)})
	cli(t, "", "deploy", "--name", "hi", "--image", "hi:1", "-n", "dev", "-e", "A=1=2", "-l", "l=1", "--annotation", "a=", "--secret", "s", "--constraint", "zone=a",
		"--cpu-limit", "1", "--memory-limit", "2Mi", "--cpu-request", "3m", "--memory-request", "4Mi", "--readonly", "--fprocess", "cat").want(t, 0, "", "updated hi")
	const golden = `{"service":"hi","image":"hi:1","namespace":"dev","envProcess":"cat","envVars":{"A":"1=2"},"constraints":["zone=a"],"secrets":["s"],` +
		`"labels":{"l":"1"},"annotations":{"a":""},"limits":{"memory":"2Mi","cpu":"1"},"requests":{"memory":"4Mi","cpu":"3m"},"readOnlyRootFilesystem":true}`
	d.wantAsked(t, "PUT /system/functions?namespace=dev "+golden, "GET /system/function/hi?namespace=dev")
}

func TestStackFile(t *testing.T) {
	d := newDouble(t, map[string]http.HandlerFunc{"PUT /system/functions": answer(202, ""), "GET /system/function/hi": answer(200, `{"name":"hi"}`)})
	for _, verb := range []string{"build", "push", "publish", "up", "deploy", "remove"} {
		cli(t, "", verb).want(t, 1, "", "no stack.yaml here", "faas new")
	}
	write(t, "stack.yaml", "version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n  hi:\n    image: hi:1\n    skip_build: true\n    environ:\n      A: b\n")
	cli(t, "", "deploy").want(t, 1, "", "line 8", "unknown field")
	write(t, "stack.yaml", "version: 1.0\nprovider:\n  name: openfaas\nfunctions:\n  hi:\n    image: hi:1\n    skip_build: true\n    environment:\n      A: b\n")
	cli(t, "", "deploy", "--filter", "x*").want(t, 2, "", `no function matches "x*"`)
	cli(t, "", "deploy", "--regex", "(").want(t, 2, "", "regular expression")
	cli(t, "", "deploy", "-e", "C=d").want(t, 0, "", "updated hi")
	d.wantAsked(t, `PUT /system/functions?namespace=openfaas-fn {"service":"hi","image":"hi:1","namespace":"openfaas-fn","envVars":{"A":"b","C":"d"}}`, "GET /system/function/hi?namespace=openfaas-fn")
}

const dead = `[{"seq":7,"callId":"c","name":"hi","namespace":"dev","reason":"answered 503","attempts":10,"time":"2026-01-02T03:04:05Z","size":5}]`

func TestQueue(t *testing.T) {
	d := newDouble(t, map[string]http.HandlerFunc{
		"GET /system/async/pending":                 answer(200, `[{"name":"hi","namespace":"dev","pending":4}]`),
		"GET /system/async/dead-letters":            answer(200, dead),
		"POST /system/async/dead-letters/7/redrive": answer(202, ""),
	})
	cli(t, "", "queue", "list").want(t, 0, "FUNCTION  NAMESPACE  PENDING\nhi        dev        4\n")
	cli(t, "", "queue", "list", "-o", "name").want(t, 0, "hi.dev\n")
	cli(t, "", "queue", "dead").want(t, 0, "NUMBER  FUNCTION  ATTEMPTS  GIVEN UP              REASON\n7       hi.dev    10        2026-01-02T03:04:05Z  \"answered 503\"\n")
	cli(t, "", "queue", "dead", "hi", "-n", "dev", "-o", "name", "--limit", "1", "--from", "3").want(t, 0, "7\n", "--from 8 goes on")
	r := cli(t, "", "queue", "dead", "-o", "json")
	var got, want any
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(dead), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	cli(t, "", "queue", "redrive", "8", "7").want(t, 3, "", "there is no dead letter 8", "7 is in the queue again")
	d.wantAsked(t, "GET /system/async/pending", "GET /system/async/pending", "GET /system/async/dead-letters?limit=100",
		"GET /system/async/dead-letters?from=3&limit=1&name=hi&namespace=dev", "GET /system/async/dead-letters?limit=100",
		"POST /system/async/dead-letters/8/redrive", "POST /system/async/dead-letters/7/redrive")
}

func TestCompletion(t *testing.T) {
	newDouble(t, map[string]http.HandlerFunc{
		"GET /system/functions": answer(200, two), "GET /system/namespaces": answer(200, `["dev"]`),
		"GET /system/secrets": answer(200, `[{"name":"key"}]`), "GET /system/async/dead-letters": answer(200, dead),
	})
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := cli(t, "", "completion", shell); r.code != 0 || !strings.Contains(r.out, "__complete") {
			t.Errorf("%s: exit code %d, %d bytes", shell, r.code, len(r.out))
		}
	}
	for args, want := range map[string]string{
		"invoke ":        "hello\nresize\n:4\n",
		"invoke hello ":  ":4\n",
		"list -n ":       "dev\n:4\n",
		"list -o ":       "json\nyaml\nwide\nname\n:4\n",
		"secret remove ": "key\n:4\n",
		"namespace get ": "dev\n:4\n",
		"queue redrive ": "7\thi.dev: answered 503\n:4\n",
		"queue dead ":    "hello\nresize\n:4\n",
	} {
		if r := cli(t, "", append([]string{"__complete"}, strings.Split(args, " ")...)...); r.out != want {
			t.Errorf("%s: %q, want %q", args, r.out, want)
		}
	}
}
