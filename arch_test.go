package podsnap

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/podsnap/podsnap"

// mayImport is the import law: for each folder (the longest match counts), the
// folders of this module that its packages may import besides their own.
var mayImport = map[string][]string{
	"api":             {}, // the contract stands on nothing of ours
	"functions":       {"api", "internal"},
	"gateway":         {"api", "internal", "functions"},
	"controlplane":    {"api", "internal", "functions"},
	"nodeagent":       {"api", "internal"},
	"builder":         {"api", "internal", "functions"},
	"internal":        {"api"},
	"internal/daemon": {"api", "internal", "functions", "gateway", "controlplane", "nodeagent", "builder"},
	"deploy":          {"api", "internal"},
	"cmd":             {"api", "internal", "functions", "builder", "controlplane/simulate"}, // `faas build` and `faas simulate` work on the client's machine
	"test":            {"api", "internal", "functions", "gateway", "controlplane", "nodeagent", "builder", "cmd", "deploy"},
	"bench":           {"api", "internal", "functions", "gateway", "controlplane", "nodeagent", "builder", "test"},
	"":                {},
}

// homes says where a third-party engine may be used: one place knows it, the
// rest sees our own interface.
var homes = map[string][]string{
	"go.etcd.io/etcd/client":                 {"controlplane/store", "controlplane/leader", "controlplane/member"},
	"go.etcd.io/etcd/server":                 {"internal/daemon"},
	"github.com/nats-io/nats.go":             {"gateway/async"},
	"github.com/nats-io/nats-server":         {"internal/daemon"},
	"github.com/containerd/containerd":       {"nodeagent/engine"},
	"github.com/vishvananda/netlink":         {"nodeagent/network", "nodeagent/service", "nodeagent/policy", "nodeagent/engine"},
	"github.com/google/nftables":             {"nodeagent/network", "nodeagent/nft", "nodeagent/service", "nodeagent/policy"},
	"github.com/mdlayher/netlink":            {"nodeagent/nft"},
	"github.com/miekg/dns":                   {"nodeagent/dns"},
	"github.com/cilium/ebpf":                 {"nodeagent/device"},
	"github.com/google/go-containerregistry": {"builder"},
	"github.com/gorilla/websocket":           {"controlplane/stream"},
	"k8s.io/streaming":                       {"controlplane/stream"},
	"github.com/go-chi/chi":                  {"controlplane/apiserver", "gateway", "api/remote", "internal/daemon"},
	"sigs.k8s.io/structured-merge-diff":      {"controlplane/openapi", "controlplane/fieldmanager", "controlplane/custom"},
	"k8s.io/client-go/util/jsonpath":         {"controlplane/custom"},
	"github.com/google/gnostic-models":       {"controlplane/openapi"},
	"github.com/robfig/cron":                 {"controlplane/crontab"},
	"github.com/golang-jwt/jwt":              {"controlplane/account"},
	"k8s.io/metrics":                         {"controlplane/apiserver"},
	"k8s.io/pod-security-admission":          {"controlplane/podsecurity"},
	"k8s.io/apiserver":                       {}, // 80 MB and 50 MB RSS: we serve the wire contract ourselves
	"k8s.io/client-go/kubernetes":            {},
	"k8s.io/client-go/informers":             {},
}

// pure packages decide and do nothing else: no clock, no I/O, no log, so that a
// decision can be tested by a table and run again on recorded input.
var pure = []string{"api/rules", "controlplane/schedule", "controlplane/storage", "controlplane/autoscale", "controlplane/simulate", "controlplane/admission", "controlplane/crontab", "controlplane/custom", "controlplane/horizontal", "controlplane/indexes", "controlplane/podsecurity", "controlplane/quota", "controlplane/rbac", "gateway/balance"}

var impure = []string{"os", "os/exec", "net", "net/http", "log/slog", "log", "io/fs", "syscall", "math/rand"}

// A file that is longer has become two.
const longest = 800

type source struct {
	file    string // slash-separated, from the root
	dir     string
	test    bool
	imports []string
	ast     *ast.File
	lines   int
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); p != "." && (strings.HasPrefix(n, ".") || n == "testdata" || n == "node_modules" || n == "bin" || hasOwnModule(p)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, p, b, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			return err
		}
		s := source{file: filepath.ToSlash(p), ast: f, test: strings.HasSuffix(p, "_test.go"), lines: strings.Count(string(b), "\n")}
		s.dir = path.Dir(s.file)
		for _, i := range f.Imports {
			v, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, v)
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func hasOwnModule(dir string) bool {
	if dir == "." {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func under(dir, folder string) bool { return dir == folder || strings.HasPrefix(dir, folder+"/") }

// law finds the rule for a folder: the longest entry of mayImport above it.
func law(dir string) (folder string, may []string) {
	for f := dir; f != "." && f != ""; f = path.Dir(f) {
		if m, ok := mayImport[f]; ok {
			return f, m
		}
	}
	return "", mayImport[""]
}

func TestImportLaw(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue // a test may stand on whatever it tests against
		}
		folder, may := law(s.dir)
		if folder == "" && s.dir != "." {
			t.Errorf("%s: the folder has no place in the plan of the house: add it to mayImport with a reason, or put the file where it belongs", s.file)
		}
		for _, i := range s.imports {
			own, ok := strings.CutPrefix(i, module+"/")
			if !ok {
				continue
			}
			if under(own, folder) || slices.ContainsFunc(may, func(m string) bool { return under(own, m) }) {
				if under(own, "internal/daemon") && !under(s.dir, "internal/daemon") && !under(s.dir, "cmd") && !under(s.dir, "test") && !under(s.dir, "bench") {
					t.Errorf("%s imports %s: only main assembles the platform", s.file, own)
				}
				continue
			}
			t.Errorf("%s imports %s: %s may import only %v. The components meet in api, so that one process and many machines run the same code", s.file, own, folder, may)
		}
	}
}

func TestThirdPartyHomes(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || under(s.dir, "test") || under(s.dir, "bench") {
			continue
		}
		for _, i := range s.imports {
			for lib, dirs := range homes {
				if !under(strings.TrimPrefix(i, ""), lib) {
					continue
				}
				if !slices.ContainsFunc(dirs, func(d string) bool { return under(s.dir, d) }) {
					t.Errorf("%s imports %s, whose home is %v: elsewhere it would tie us to one engine (see RATIONALE.md)", s.file, i, dirs)
				}
			}
		}
	}
}

func TestPurePackages(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || !slices.ContainsFunc(pure, func(p string) bool { return under(s.dir, p) }) {
			continue
		}
		for _, i := range s.imports {
			if slices.Contains(impure, i) {
				t.Errorf("%s imports %s: this package decides purely; take what it would read as an argument", s.file, i)
			}
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "After", "Sleep", "NewTimer"}, sel.Sel.Name) {
				t.Errorf("%s uses time.%s: a pure package is given the time", s.file, sel.Sel.Name)
			}
			return true
		})
	}
}

func TestFileSize(t *testing.T) {
	for _, s := range sources(t) {
		if s.lines > longest {
			t.Errorf("%s has %d lines, the stop is %d: it has become two things", s.file, s.lines, longest)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	docs, seen := map[string]bool{}, map[string]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		seen[s.dir] = s.file
		if s.ast.Doc != nil {
			docs[s.dir] = true
		}
	}
	for dir, file := range seen {
		if !docs[dir] {
			t.Errorf("%s: no file of the package has a package comment", path.Dir(file))
		}
	}
}

func TestNoInitNoSleep(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s has an init function: what runs must be called by somebody", s.file)
			}
		}
		bubbles := slices.Contains(s.imports, module+"/test/bubble") || slices.Contains(s.imports, "testing/synctest")
		ast.Inspect(s.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if ok && x.Name == "synctest" && sel.Sel.Name == "Test" && s.dir != "test/bubble" {
				t.Errorf("%s calls synctest.Test: test/bubble has what does not crash the race detector", s.file)
			}
			if ok && x.Name == "time" && sel.Sel.Name == "Sleep" && !bubbles {
				t.Errorf("%s sleeps: wait for the event, or test in a bubble (test/bubble)", s.file)
			}
			return true
		})
	}
}
