package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	texttemplate "text/template"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/podsnap/podsnap/functions/template"
	"github.com/podsnap/podsnap/functions/watchdog/host"
)

// module is the name of the module that is built around a handler.
const module = "function.local"

// buildGo compiles the handler together with the watchdog's own package into
// one static program: the function is its own watchdog, so that a cold start
// begins one process and a call crosses no second one.
func buildGo(ctx context.Context, j Job, t template.Template, progress io.Writer) (v1.Image, error) {
	dir, err := os.MkdirTemp("", "faas-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	work, err := arrange(dir, j, t)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "%s: compiling\n", j.Name)
	bin := filepath.Join(dir, "out", "handler")
	if err := compile(ctx, dir, work, bin, j); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		return nil, err
	}
	app := tree{}
	app.file("function/handler", 0o755, b)
	return assemble(v1.Config{Entrypoint: []string{"/function/handler"}, WorkingDir: "/home/nobody", Env: []string{"PATH=/bin:/usr/bin"}}, runtime.GOARCH, base(), app)
}

// arrange lays the module out: the handler in function/, the watchdog's source
// in host/, main.go from the template. A handler with a go.mod of its own stays
// a module, and both are built as one workspace.
func arrange(dir string, j Job, t template.Template) (gowork string, err error) {
	src := tree{}
	if err := src.copy("function", j.Handler); err != nil {
		return "", err
	}
	sources, err := fs.Glob(host.Source, "*.go")
	if err != nil {
		return "", err
	}
	for _, s := range sources {
		if strings.HasSuffix(s, "_test.go") {
			continue
		}
		b, err := host.Source.ReadFile(s)
		if err != nil {
			return "", err
		}
		src.file("host/"+s, 0o644, b)
	}
	path, gowork := module+"/function", "off"
	if mod, ok := src["function/go.mod"]; ok {
		if path = modulePath(mod.content); path == "" {
			return "", fmt.Errorf("%s names no module", filepath.Join(j.Handler, "go.mod"))
		}
		src.file("go.work", 0o644, []byte("go 1.26\n\nuse (\n\t.\n\t./function\n)\n"))
		gowork = filepath.Join(dir, "go.work")
	}
	text, err := template.File(t.Name, "main.go.txt")
	if err != nil {
		return "", err
	}
	tmpl, err := texttemplate.New("main").Parse(string(text))
	if err != nil {
		return "", err
	}
	var main bytes.Buffer
	if err := tmpl.Execute(&main, struct{ Module, Host string }{path, module + "/host"}); err != nil {
		return "", err
	}
	src.file("main.go", 0o644, main.Bytes())
	src.file("go.mod", 0o644, []byte("module "+module+"\n\ngo 1.26\n"))
	return gowork, src.write(dir)
}

// write lays a tree out on the disk.
func (t tree) write(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, e := range t {
		if e.dir {
			if err := root.MkdirAll(name, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if e.link != "" {
			err = root.Symlink(e.link, name)
		} else {
			err = root.WriteFile(name, e.content, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var moduleRE = regexp.MustCompile(`(?m)^module\s+"?([^\s"]+)"?`)

func modulePath(gomod []byte) string {
	if m := moduleRE.FindSubmatch(gomod); m != nil {
		return string(m[1])
	}
	return ""
}

// compile runs the go command. Its messages name the handler's files where they
// are.
func compile(ctx context.Context, dir, gowork, bin string, j Job) error {
	home, _ := os.UserCacheDir() // without one there is no toolchain in it
	fetched, _ := filepath.Glob(filepath.Join(home, "podsnap", "go*", "bin"))
	gocmd, ok := command("go", append([]string{"/usr/local/go/bin"}, fetched...)...)
	if !ok {
		return errors.New("building a Go function needs the go command: install it, or run `make up` once, which fetches it")
	}
	cmd := exec.CommandContext(ctx, gocmd, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", bin, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH, "GOTOOLCHAIN=local", "GOWORK="+gowork, "GOFLAGS=-mod=readonly")
	for k, v := range j.BuildArgs {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	text := strings.TrimSpace(string(out))
	text = strings.ReplaceAll(text, "function/", strings.TrimSuffix(j.Handler, "/")+"/")
	text = strings.ReplaceAll(text, module+"/"+strings.TrimSuffix(j.Handler, "/"), j.Name)
	return fmt.Errorf("the handler does not compile:\n%s", text)
}
