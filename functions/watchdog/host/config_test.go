package host

import (
	"bytes"
	"log"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

func mustParse(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		env   string // "a=b c=d"
		check func(*config) bool
		fault string
	}{
		{"fprocess=cat", func(c *config) bool {
			return c.mode == classic && c.limit() == time.Minute && c.combine && c.cgiHeaders
		}, ""},
		{"function_process=cat write_timeout=5", func(c *config) bool { return c.limit() == 5*time.Second }, ""},
		{"fprocess=cat write_timeout=5 exec_timeout=1m30s", func(c *config) bool { return c.limit() == 90*time.Second }, ""},
		{"fprocess=x http_upstream_url=http://127.0.0.1:5000", func(c *config) bool { return c.mode == upstream && c.upstream.Host == "127.0.0.1:5000" }, ""},
		{"fprocess=x mode=http", func(c *config) bool { return c.upstream.Host == "127.0.0.1:8082" }, ""},
		{"mode=static", func(c *config) bool { return c.staticPath == "/home/app/public" }, ""},
		{"", nil, "fprocess is not set"},
		{"fprocess=x mode=afterburn", nil, `mode is "afterburn": it must be`},
		{"fprocess=x exec_timeout=soon", nil, `exec_timeout is "soon"`},
		{"fprocess=x max_inflight=-1", nil, `max_inflight is "-1"`},
		{"fprocess=x suppress_lock=maybe", nil, `suppress_lock is "maybe"`},
		{"fprocess=x upstream_url=unix:/x", nil, "upstream_url is"},
		{"mode=inproc", nil, "no function is compiled"},
		{"fprocess=x jwt_auth=true", nil, "jwt_auth is set"},
	} {
		env := map[string]string{}
		for kv := range strings.FieldsSeq(c.env) {
			k, v, _ := strings.Cut(kv, "=")
			env[k] = v
		}
		got, err := read(func(k string) string { return env[k] }, false)
		switch {
		case c.fault == "" && err != nil:
			t.Errorf("%q: %v", c.env, err)
		case c.fault == "" && !c.check(got):
			t.Errorf("%q: got %+v", c.env, got)
		case c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)):
			t.Errorf("%q: got %v, want %q", c.env, err, c.fault)
		}
	}
}

func TestSplit(t *testing.T) {
	for in, want := range map[string][]string{
		"":                         nil,
		"  a  b\tc ":               {"a", "b", "c"},
		`awk '{print $1}' "x y"`:   {"awk", "{print $1}", "x y"},
		`sh -c 'echo "a b"' ''`:    {"sh", "-c", `echo "a b"`, ""},
		`a\ b "c\"d" 'e\f'`:        {"a b", `c"d`, `e\f`},
		`python3 index.py --x="y"`: {"python3", "index.py", "--x=y"},
	} {
		if got := split(in); !slices.Equal(got, want) {
			t.Errorf("split(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestLogLines(t *testing.T) {
	var b bytes.Buffer
	logLines(log.New(&b, "", 0), strings.NewReader("one\n\n"+strings.Repeat("x", 40)+"\nlast"), "p: ", 16)
	want := "p: one\np: \np: " + strings.Repeat("x", 16) + "\np: " + strings.Repeat("x", 16) + "\np: " + strings.Repeat("x", 8) + "\np: last\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}
