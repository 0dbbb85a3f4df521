package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/podsnap/podsnap/functions/stack"
	"github.com/podsnap/podsnap/functions/template"
	"github.com/podsnap/podsnap/internal/assets"
)

// Config says what builds use. The zero value finds everything itself.
type Config struct {
	Go       string            // the go command; "" is the one in PATH or in its usual places
	Busybox  string            // a static busybox; "" is /bin/busybox or /usr/bin/busybox
	Watchdog []byte            // the watchdog program; nil is the embedded one
	Arch     string            // "amd64", "arm64"; "" is that of this program
	Engines  map[string]Engine // more languages, or other engines for "go" and "sh"
}

// Engine makes what an image of one language holds. It is safe for concurrent
// use. An error that is the source's fault is a *SourceError.
type Engine interface {
	Build(ctx context.Context, j Job) (Content, error)
}

// Job is one build.
type Job struct {
	Function stack.Function
	Template template.Template
	Dir      string   // the handler's folder
	Copy     []string // more files and folders that go beside the handler's
	Arch     string
	Progress io.Writer // for a person, whole lines; never nil
}

// Content is what becomes an image.
type Content struct {
	Layers []Layer
	Config v1.Config
}

// SourceError is a fault in the function's source, with what to show for it:
// lines that begin with file:line.
type SourceError struct {
	Summary string
	Output  string
}

func (e *SourceError) Error() string {
	if e.Output == "" {
		return e.Summary
	}
	return e.Summary + "\n" + strings.TrimRight(e.Output, "\n")
}

// Builder builds.
type Builder struct {
	c       Config
	engines map[string]Engine
}

// New makes a builder. What a language needs is looked for when it is built.
func New(c Config) *Builder {
	if c.Arch == "" {
		c.Arch = runtime.GOARCH
	}
	b := &Builder{c: c, engines: map[string]Engine{
		"go": &goEngine{command: c.Go},
		"sh": &shellEngine{busybox: c.Busybox, watchdog: c.watchdog},
	}}
	maps.Copy(b.engines, c.Engines)
	return b
}

func (c *Config) watchdog() ([]byte, error) {
	if c.Watchdog != nil {
		return c.Watchdog, nil
	}
	return assets.Watchdog()
}

// Image is a built image.
type Image struct {
	Ref    string // as in the stack file
	Digest string // sha256:…
	Size   int64  // of all compressed layers, bytes
	image  v1.Image
}

// Build makes the image of one function of a stack. Progress lines go to
// progress, which may be nil.
func (b *Builder) Build(ctx context.Context, s *stack.Stack, f stack.Function, progress io.Writer) (*Image, error) {
	if progress == nil {
		progress = io.Discard
	}
	j, err := b.job(s, f, progress)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", f.Name, err)
	}
	engine := b.engines[j.Template.Language]
	if engine == nil {
		return nil, fmt.Errorf("build %s: no engine for the language %s", f.Name, j.Template.Language)
	}
	content, err := engine.Build(ctx, j)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", f.Name, err)
	}
	img, err := assemble(content, b.c.Arch)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", f.Name, err)
	}
	img.Ref = f.ImageName()
	return img, nil
}

func (b *Builder) job(s *stack.Stack, f stack.Function, progress io.Writer) (Job, error) {
	j := Job{Function: f, Dir: f.HandlerDir(), Arch: b.c.Arch, Progress: progress}
	if s != nil {
		for _, c := range s.Configuration.Copy {
			f := stack.Function{Dir: f.Dir, Handler: c}
			j.Copy = append(j.Copy, f.HandlerDir())
		}
	}
	switch {
	case f.SkipBuild:
		return j, errors.New("its stack entry says skip_build")
	case f.Lang == "":
		return j, errors.New("its stack entry has no lang")
	case f.Handler == "":
		return j, errors.New("its stack entry has no handler")
	case strings.EqualFold(f.Lang, "dockerfile"):
		return j, errors.New("a Dockerfile cannot be built yet: use lang go or sh, or build the image elsewhere and set skip_build")
	}
	if _, err := reference.ParseNormalizedNamed(f.ImageName()); err != nil {
		return j, fmt.Errorf("image %q: %w", f.ImageName(), err)
	}
	// The language first: with an unknown one there is often no handler either.
	var err error
	if j.Template, err = template.Get(f.Lang); err != nil {
		return j, err
	}
	if info, err := os.Stat(j.Dir); err != nil {
		return j, fmt.Errorf("handler: %w", err)
	} else if !info.IsDir() {
		return j, fmt.Errorf("handler %s is not a folder", j.Dir)
	}
	return j, nil
}
