package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/podsnap/podsnap/functions/watchdog/host"
)

// goEngine compiles a handler into one static program that is its own watchdog:
// a second process and a second hop would only cost a cold start time.
type goEngine struct {
	command string

	mu      sync.Mutex
	version string // of the go command, "1.26"
}

// mainDir is where the program around the handler goes, in the handler's
// module: so the handler's own go.mod and go.sum hold for all of it.
const mainDir = "zz_main"

const workPrefix = "podsnap-build-"

const mainText = `package main

import (
	"context"
	"net/http"
	"os"

	function %q
	host %q
)

func main() { os.Exit(host.Main(context.Background(), http.HandlerFunc(function.Handle))) }
`

func (g *goEngine) Build(ctx context.Context, j Job) (Content, error) {
	files, err := collect(j.Dir, j.Copy)
	if err != nil {
		return Content{}, err
	}
	if err := checkHandler(files, j.Dir); err != nil {
		return Content{}, err
	}
	command, err := g.find()
	if err != nil {
		return Content{}, err
	}
	work, err := os.MkdirTemp("", workPrefix)
	if err != nil {
		return Content{}, err
	}
	defer os.RemoveAll(work)
	if files, err = g.around(ctx, command, files); err != nil {
		return Content{}, err
	}
	if err := write(work, files); err != nil {
		return Content{}, err
	}
	program, err := g.compile(ctx, command, work, j, find(files, "vendor/modules.txt") != nil)
	if err != nil {
		return Content{}, err
	}
	layer := Layer{Note: "go build", Files: append(rootFiles(), File{Path: "/function/handler", Mode: 0o755, Content: program})}
	return Content{Layers: []Layer{layer}, Config: configure([]string{"/function/handler"}, "/function")}, nil
}

// find looks for the go command.
func (g *goEngine) find() (string, error) {
	if g.command != "" {
		return g.command, nil
	}
	if p, err := exec.LookPath("go"); err == nil {
		return p, nil
	}
	places := []string{"/usr/local/go/bin/go"}
	patterns := []string{"/usr/lib/go-*/bin/go"}
	if cache, err := os.UserCacheDir(); err == nil {
		patterns = append(patterns, filepath.Join(cache, "podsnap/go*/bin/go")) // where `make` puts it
	}
	for _, p := range patterns {
		found, _ := filepath.Glob(p)
		places = append(places, found...)
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("the go command, in PATH or /usr/local/go/bin: %w: install Go from https://go.dev/dl or with apt-get install golang-go", errNoTool)
}

var moduleLine = regexp.MustCompile(`(?m)^module\s+"?([^\s"]+)"?`)

// around adds what makes a program of the handler.
func (g *goEngine) around(ctx context.Context, command string, files []sourceFile) ([]sourceFile, error) {
	module := "function"
	if f := find(files, "go.mod"); f != nil {
		m := moduleLine.FindSubmatch(f.content)
		if m == nil {
			return nil, &SourceError{Summary: "go.mod has no module line"}
		}
		module = string(m[1])
	} else {
		version, err := g.language(ctx, command)
		if err != nil {
			return nil, err
		}
		files = append(files, sourceFile{path: "go.mod", content: []byte("module function\n\ngo " + version + "\n")})
	}
	text := fmt.Sprintf(mainText, module, module+"/"+mainDir+"/host")
	files = append(files, sourceFile{path: mainDir + "/main.go", content: []byte(text)})
	entries, err := host.Source.ReadDir(".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), "_test.go") || e.Name() == "source.go" {
			continue
		}
		b, err := host.Source.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		files = append(files, sourceFile{path: mainDir + "/host/" + e.Name(), content: b})
	}
	return files, nil
}

// language is the version of Go that a handler without a go.mod is written in:
// the go command's own.
func (g *goEngine) language(ctx context.Context, command string) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.version != "" {
		return g.version, nil
	}
	out, err := exec.CommandContext(ctx, command, "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("%s env GOVERSION: %w", command, err)
	}
	v, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "go"), " ")
	parts := strings.SplitN(v, ".", 3)
	if len(parts) < 2 {
		return "", fmt.Errorf("%s has an unknown version: %s", command, out)
	}
	g.version = parts[0] + "." + strings.TrimRight(parts[1], "abcdefghijklmnopqrstuvwxyz-")
	return g.version, nil
}

// compile runs go build, and beside it go vet, whose findings are warnings.
func (g *goEngine) compile(ctx context.Context, command, work string, j Job, vendored bool) ([]byte, error) {
	mode := "mod" // lets a handler name no versions: the go command finds them
	if vendored {
		mode = "vendor"
	}
	env := append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+j.Arch, "GO111MODULE=on", "GOWORK=off",
		"GOTOOLCHAIN=local", "GOFLAGS=-trimpath -buildvcs=false -mod="+mode)
	program := filepath.Join(work, mainDir, "handler")
	say(j.Progress, "%s: go build", j.Function.Name)
	var vet sync.WaitGroup
	var findings string
	vet.Go(func() {
		if out, err := run(ctx, work, env, command, "vet", "."); err != nil {
			findings = relocate(out, j.Dir)
		}
	})
	out, err := run(ctx, work, env, command, "build", "-ldflags=-s -w -buildid=", "-o", program, "./"+mainDir)
	vet.Wait()
	if err != nil {
		return nil, goFault(ctx, err, relocate(out, j.Dir))
	}
	if findings != "" {
		say(j.Progress, "%s: go vet:\n%s", j.Function.Name, strings.TrimRight(findings, "\n"))
	}
	return os.ReadFile(program)
}

func run(ctx context.Context, dir string, env []string, command string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// goFault tells a fault in the source from one of this machine.
func goFault(ctx context.Context, err error, output string) error {
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !errors.As(err, &exit):
		return err
	}
	for _, sign := range []string{"dial tcp", "no such host", "i/o timeout", "connection refused", "GOPROXY=off", "module lookup disabled"} {
		if strings.Contains(output, sign) {
			return &SourceError{
				Summary: "the handler needs modules that cannot be downloaded here: set GOPROXY to a proxy that can be reached, or run `go mod vendor` in the handler's folder",
				Output:  output,
			}
		}
	}
	return &SourceError{Summary: "go build", Output: output}
}

// checkHandler finds the commonest mistakes before the compiler reports them in
// words about generated code.
func checkHandler(files []sourceFile, dir string) error {
	fset := token.NewFileSet()
	source, has := false, false
	for _, f := range files {
		if strings.Contains(f.path, "/") || !strings.HasSuffix(f.path, ".go") || strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		source = true
		tree, err := parser.ParseFile(fset, filepath.Join(dir, f.path), bytes.NewReader(f.content), parser.SkipObjectResolution)
		if err != nil {
			return &SourceError{Summary: "go build", Output: err.Error()}
		}
		if tree.Name.Name == "main" {
			return &SourceError{Summary: fmt.Sprintf("%s: the package must not be main: call it function", fset.Position(tree.Name.Pos()))}
		}
		has = has || declares(tree, "Handle")
	}
	switch {
	case !source:
		return &SourceError{Summary: dir + " has no Go file"}
	case !has:
		return &SourceError{Summary: dir + " has no func Handle(w http.ResponseWriter, r *http.Request)"}
	}
	return nil
}

func declares(f *ast.File, name string) bool {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == name {
				return true
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if v, ok := s.(*ast.ValueSpec); ok && v.Names[0].Name == name {
					return true
				}
			}
		}
	}
	return false
}
